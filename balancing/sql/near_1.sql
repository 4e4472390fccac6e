-- near_1: for each of some requests that go by least_loaded alone, the agents that fit, the least loaded
-- first, at most 5: what candidates_1 finds, for all of them in one statement. Of equal places in the
-- four lists: the request, the agent, its name, load and generality. Plain reads, locks nothing.
-- mine, held: as of candidates_1.
CREATE FUNCTION near_1(
  rs request[], mine agent[], held uuid[],
  OUT requests uuid[], OUT ids uuid[], OUT names text[], OUT loads int[], OUT generalities int[]
) LANGUAGE plpgsql AS $$
BEGIN
  SELECT array_agg(r.id), array_agg(c.id), array_agg(c.agent_id), array_agg(c.load::int),
      array_agg(c.generality::int)
    INTO requests, ids, names, loads, generalities
    FROM unnest(rs) r JOIN pool p ON p.agent_type = r.agent_type CROSS JOIN LATERAL (
      (SELECT x.id, x.agent_id, x.load, x.generality FROM (
        SELECT a.id, a.agent_id, a.load, a.generality, fits_1(a, r) AS fits FROM agent a
          WHERE a.agent_type = r.agent_type AND a.status IN ('busy', 'idle')
            AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
            AND a.id <> ALL (held)
          ORDER BY a.load, a.generality LIMIT 64) x
        WHERE x.fits LIMIT 5)
      UNION ALL
      SELECT m.id, m.agent_id, m.load, m.generality FROM unnest(mine) m
        WHERE m.agent_type = r.agent_type AND m.status IN ('busy', 'idle')
          AND m.health IN ('good', 'probation', 'unknown') AND m.load < m.max_concurrent
          AND fits_1(m, r)
      ORDER BY load, generality LIMIT 5) c
    WHERE coalesce(nullif(r.strategy, ''), p.strategy) = 'least_loaded' AND r.affinity = 'none' AND r.preferred_agent = '';
END $$
