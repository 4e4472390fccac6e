-- candidates_1: the agents that a strategy prefers for a request, best first, at most 16; empty when
-- none fits. Formulas: balancing/scoring.py; a test holds the two together.
-- Plain reads, locks nothing. Scores the 16 least loaded that fit (fitting_1); best_of_k and bin_pack
-- look elsewhere first.
-- mine, held: agents that this transaction has locked, changed and not written yet, and their ids: they
-- are looked at as they are here (there are none with best_of_k and bin_pack).
-- A statement for each kind of strategy: what it costs is mostly what it could do, not what it does.
-- OFFSET 0: what score and parts are both made of is worked out once.
CREATE FUNCTION candidates_1(
  r request, p_strategy text, warm uuid[], warmth float8[], mine agent[], held uuid[]
) RETURNS card_1[] LANGUAGE plpgsql AS $$
DECLARE
  near agent[];
  usual average_1;
  scored card_1[];
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
  IF near = '{}' THEN RETURN '{}'; END IF;

  CASE p_strategy
  WHEN 'workload_aware' THEN
    usual := average_of_1(r);
    scored := ARRAY(SELECT ROW(a.id, a.agent_id,
          0.3 * q.load + 0.25 * q.specialisation + 0.2 * q.resources + 0.15 * q.performance
            + 0.1 * q.affinity - 0.001 * a.generality,
          concat('{"load": ', q.load, ', "specialisation": ', q.specialisation,
            ', "resources": ', q.resources, ', "performance": ', q.performance,
            ', "affinity": ', q.affinity, ', "generality": ', a.generality, '}'))::card_1
        FROM unnest(near) a CROSS JOIN LATERAL (
          SELECT * FROM workload_parts_1(a, r, usual,
            coalesce(warmth[array_position(warm, a.id)], 0)) OFFSET 0) q);
  WHEN 'predictive', 'learnt' THEN
    usual := average_of_1(r);
    scored := ARRAY(SELECT ROW(a.id, a.agent_id,
          CASE p_strategy WHEN 'learnt' THEN -q.hoped_s
            ELSE 0.4 * q.success + 0.3 * q.efficiency + 0.3 / (1 + q.seconds / 3600) END
            - 0.001 * a.generality,
          concat('{"success": ', q.success, ', "success_low": ', q.success_low,
            ', "success_high": ', q.success_high, ', "seconds": ', q.seconds,
            ', "seconds_low": ', q.seconds_low, ', "seconds_high": ', q.seconds_high,
            ', "tokens": ', q.tokens, ', "leases": ', q.leases, ', "learnt_at": ', q.learnt_at,
            CASE p_strategy WHEN 'learnt' THEN concat(', "hoped_s": ', q.hoped_s)
              ELSE concat(', "efficiency": ', q.efficiency, ', "time": ',
                1 / (1 + q.seconds / 3600)) END,
            ', "generality": ', a.generality, '}'))::card_1
        FROM unnest(near) a CROSS JOIN LATERAL (SELECT * FROM expected_1(a, r, usual) OFFSET 0) q);
  WHEN 'bin_pack' THEN
    scored := ARRAY(SELECT ROW(a.id, a.agent_id, q.packing - 0.001 * a.generality,
          concat('{"packing": ', q.packing, ', "generality": ', a.generality, '}'))::card_1
        FROM unnest(near) a CROSS JOIN LATERAL (SELECT (
            coalesce((a.used_memory_mb + r.memory_mb)::float8 / nullif(a.memory_mb, 0), 0)
            + coalesce((a.used_cpu_cores + r.cpu_cores)::float8
              / nullif(a.cpu_cores, 0)::float8, 0)
            + coalesce((a.used_token_budget + r.token_budget)::float8
              / nullif(a.token_budget, 0), 0)
            + coalesce((a.used_disk_space_mb + r.disk_space_mb)::float8
              / nullif(a.disk_space_mb, 0), 0)) / 4 AS packing OFFSET 0) q);
  WHEN 'round_robin' THEN
    scored := ARRAY(SELECT ROW(a.id, a.agent_id, -a.last_token,
        concat('{"last_token": ', a.last_token, '}'))::card_1 FROM unnest(near) a);
  ELSE
    scored := ARRAY(SELECT ROW(a.id, a.agent_id, -a.load - 0.001 * a.generality,
        concat('{"load": ', a.load, ', "generality": ', a.generality, '}'))::card_1
      FROM unnest(near) a);
  END CASE;
  RETURN ARRAY(SELECT c FROM unnest(scored) c ORDER BY c.score DESC, random());
END $$
