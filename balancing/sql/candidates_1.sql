-- candidates_1: the agents that a strategy prefers for a request, best first, at most 16, each with
-- a card {agent_id, score, parts}. Formulas: balancing/scoring.py; a test holds the two together.
-- Plain reads, locks nothing. Scores the 16 least loaded that fit (fitting_1); best_of_k and bin_pack
-- look elsewhere first.
-- mine, held: agents that this transaction has locked, changed and not written yet, and their ids: they
-- are looked at as they are here (there are none with best_of_k and bin_pack).
CREATE FUNCTION candidates_1(
  r request, p_strategy text, warm uuid[], warmth float8[], mine agent[], held uuid[],
  OUT ids uuid[], OUT cards jsonb[]
) LANGUAGE plpgsql AS $$
DECLARE
  near agent[];
  usual average_1;
BEGIN
  IF p_strategy = 'best_of_k' THEN
    near := ARRAY(SELECT a FROM agent a WHERE a.id IN (
        SELECT y.id FROM (SELECT gen_random_uuid() AS at FROM generate_series(1, 3)) k
          CROSS JOIN LATERAL (
            SELECT x.id FROM (
              SELECT a.id, a.agent_type = r.agent_type AND a.status IN ('busy', 'idle')
                  AND a.health IN ('good', 'probation', 'unknown')
                  AND a.load < a.max_concurrent AND fits_1(a, r) AS fits
                FROM agent a WHERE a.id >= k.at ORDER BY a.id LIMIT 64) x
              WHERE x.fits LIMIT 1) y));
  ELSIF p_strategy = 'bin_pack' THEN
    near := ARRAY(SELECT x.a FROM (
        SELECT a, fits_1(a, r) AS fits FROM agent a
          WHERE a.agent_type = r.agent_type AND a.status IN ('busy', 'idle')
            AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
          ORDER BY a.load DESC, a.generality DESC LIMIT 64) x
      WHERE x.fits LIMIT 16);
  ELSIF p_strategy = 'learnt' THEN
    near := promising_1(r, held) || ARRAY(SELECT m FROM unnest(mine) m
      WHERE m.agent_type = r.agent_type AND m.status IN ('busy', 'idle')
        AND m.health IN ('good', 'probation', 'unknown') AND m.load < m.max_concurrent
        AND fits_1(m, r));
  END IF;
  IF coalesce(near, '{}') = '{}' THEN near := fitting_1(r, mine, held, 16); END IF;
  IF near = '{}' THEN RETURN; END IF;

  IF p_strategy IN ('workload_aware', 'predictive', 'learnt') THEN
    usual := average_of_1(r);
  END IF;
  SELECT array_agg(s.id ORDER BY s.score DESC, s.tie), array_agg(
      jsonb_build_object('agent_id', s.agent_id, 'score', s.score, 'parts', s.parts)
      ORDER BY s.score DESC, s.tie)
    INTO ids, cards
    FROM (
      SELECT a.id, a.agent_id, x.score, x.parts, random() AS tie
        FROM unnest(near) a
          CROSS JOIN LATERAL (
            SELECT -a.load - 0.001 * a.generality,
                jsonb_build_object('load', a.load, 'generality', a.generality)
              WHERE p_strategy IN ('least_loaded', 'best_of_k')
            UNION ALL
            SELECT -a.last_token, jsonb_build_object('last_token', a.last_token)
              WHERE p_strategy = 'round_robin'
            UNION ALL
            SELECT q.packing - 0.001 * a.generality,
                jsonb_build_object('packing', q.packing, 'generality', a.generality)
              FROM (SELECT (
                coalesce((a.used_memory_mb + r.memory_mb)::float8 / nullif(a.memory_mb, 0), 0)
                + coalesce((a.used_cpu_cores + r.cpu_cores)::float8
                  / nullif(a.cpu_cores, 0)::float8, 0)
                + coalesce((a.used_token_budget + r.token_budget)::float8
                  / nullif(a.token_budget, 0), 0)
                + coalesce((a.used_disk_space_mb + r.disk_space_mb)::float8
                  / nullif(a.disk_space_mb, 0), 0)) / 4 AS packing) q
              WHERE p_strategy = 'bin_pack'
            UNION ALL
            SELECT 0.3 * q.load + 0.25 * q.specialisation + 0.2 * q.resources
                  + 0.15 * q.performance + 0.1 * q.affinity - 0.001 * a.generality,
                to_jsonb(q) || jsonb_build_object('generality', a.generality)
              FROM workload_parts_1(a, r, usual,
                coalesce(warmth[array_position(warm, a.id)], 0)) q WHERE p_strategy = 'workload_aware'
            UNION ALL
            SELECT 0.4 * q.success + 0.3 * q.efficiency + 0.3 / (1 + q.seconds / 3600)
                  - 0.001 * a.generality,
                to_jsonb(q) - 'hoped_s' || jsonb_build_object('generality', a.generality,
                  'time', 1 / (1 + q.seconds / 3600))
              FROM expected_1(a, r, usual) q WHERE p_strategy = 'predictive'
            UNION ALL
            SELECT -q.hoped_s - 0.001 * a.generality,
                to_jsonb(q) - 'efficiency' || jsonb_build_object('generality', a.generality)
              FROM expected_1(a, r, usual) q WHERE p_strategy = 'learnt'
          ) x (score, parts)) s;
END $$
