-- workload_parts_1: the five parts of the score workload_aware, each 0 to 1 (seed 2,
-- WorkloadAwareBalancer; formulas in balancing/scoring.py).
CREATE FUNCTION workload_parts_1(a agent, r request, p average_1, p_warmth float8)
RETURNS TABLE (
  load float8, specialisation float8, resources float8, performance float8, affinity float8
) LANGUAGE sql STABLE AS $$
  SELECT 1 - a.load::float8 / a.max_concurrent,
    CASE WHEN r.tags = '{}' AND r.preferences = '[]' THEN 0.5 ELSE (
      SELECT sum(w.weight) FILTER (WHERE w.met) FROM (
        SELECT 1::float8, t = ANY (a.capabilities) FROM unnest(r.tags) t
        UNION ALL
        SELECT (x->>'weight')::float8, rule_holds_1(a.labels, a.capabilities, x)
          FROM jsonb_array_elements(r.preferences) x
        UNION ALL SELECT 0, true) w (weight, met)) / (cardinality(r.tags)
      + (SELECT coalesce(sum((x->>'weight')::float8), 0)
          FROM jsonb_array_elements(r.preferences) x)) END,
    (share_left_1(a.memory_mb - a.used_memory_mb - r.memory_mb, a.memory_mb)
      + share_left_1((a.cpu_cores - a.used_cpu_cores - r.cpu_cores)::float8, a.cpu_cores::float8)
      + share_left_1(a.token_budget - a.used_token_budget - r.token_budget, a.token_budget)
      + share_left_1(a.disk_space_mb - a.used_disk_space_mb - r.disk_space_mb, a.disk_space_mb)
      ) / 4,
    e.success,
    p_warmth
  FROM expected_1(a, r, p) e
$$
