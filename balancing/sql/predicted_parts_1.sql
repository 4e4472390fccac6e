-- predicted_parts_1: the three parts of the score predictive, each 0 to 1 (seed 2,
-- PredictiveBalancer, on measured statistics; formulas in balancing/scoring.py).
CREATE FUNCTION predicted_parts_1(a agent, r request, prior track_record)
RETURNS TABLE (success float8, efficiency float8, "time" float8) LANGUAGE sql STABLE AS $$
  SELECT (coalesce(t.successes, 0) + 5 * (coalesce(prior.successes, 0) + 1)::float8
      / (coalesce(prior.leases, 0) + 2)) / (coalesce(t.leases, 0) + 5),
    (coalesce(t.efficiency, 0) + 5 * coalesce(prior.efficiency / nullif(prior.leases, 0), 0.5))
      / (coalesce(t.leases, 0) + 5),
    1 / (1 + (coalesce(t.duration_s, 0)
      + 5 * coalesce(prior.duration_s / nullif(prior.leases, 0), r.expected_duration_s, 600))
      / (coalesce(t.leases, 0) + 5) / 3600)
  FROM (SELECT) one LEFT JOIN track_record t ON t.agent_id = a.id AND t.story_type = r.story_type
$$
