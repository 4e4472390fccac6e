-- near_1: for each of some requests that go by least_loaded alone (covered), the agents that fit, the
-- least loaded first, of those the plainest; some more than there are such requests of its pool,
-- since these take from each other. Of equal places in the other lists: the request, the agent, its
-- name, load and generality. Plain reads, locks nothing. mine, held: as of candidates_1.
-- One statement does for all to whom the front of the index has enough to offer, which is nearly
-- always; for the others it is able_agents_1 that looks further.
CREATE FUNCTION near_1(
  rs request[], mine agent[], held uuid[],
  OUT covered uuid[],
  OUT requests uuid[], OUT ids uuid[], OUT names text[], OUT loads int[], OUT generalities int[]
) LANGUAGE plpgsql AS $$
DECLARE
  types text[];
  scanty uuid[];
BEGIN
  SELECT array_agg(r.id), array_agg(r.agent_type) INTO covered, types
    FROM unnest(rs) r JOIN pool p ON p.agent_type = r.agent_type
    WHERE coalesce(nullif(r.strategy, ''), p.strategy) = 'least_loaded' AND r.affinity = 'none'
      AND r.preferred_agent = '';
  IF covered IS NULL THEN RETURN; END IF;
  SELECT array_agg(c.request), array_agg(c.id), array_agg(c.agent_id), array_agg(c.load),
      array_agg(c.generality)
    INTO requests, ids, names, loads, generalities
    FROM unnest(rs) r CROSS JOIN LATERAL (
      SELECT r.id AS request, y.* FROM (
        (SELECT x.id, x.agent_id, x.load, x.generality FROM (
            SELECT a.id, a.agent_id, a.load::int AS load, a.generality::int AS generality,
                fits_1(a, r) AS fits
              FROM agent a
              WHERE a.agent_type = r.agent_type AND a.status IN ('busy', 'idle')
                AND a.health IN ('good', 'probation', 'unknown')
                AND a.load < a.max_concurrent AND a.id <> ALL (held)
              ORDER BY a.load, a.generality LIMIT 64) x
          WHERE x.fits LIMIT 4 + cardinality(array_positions(types, r.agent_type)))
        UNION ALL
        SELECT m.id, m.agent_id, m.load::int, m.generality::int FROM unnest(mine) m
          WHERE m.agent_type = r.agent_type AND m.status IN ('busy', 'idle')
            AND m.health IN ('good', 'probation', 'unknown') AND m.load < m.max_concurrent
            AND fits_1(m, r)) y
      ORDER BY y.load, y.generality, y.id) c
    WHERE r.id = ANY (covered);

  -- Was the front all there is?
  scanty := ARRAY(SELECT r.id FROM unnest(rs) r
    WHERE r.id = ANY (covered) AND coalesce(cardinality(array_positions(requests, r.id)), 0) < 4
      AND EXISTS (SELECT FROM agent a
        WHERE a.agent_type = r.agent_type AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
        ORDER BY a.load, a.generality OFFSET 64 LIMIT 1));
  IF scanty = '{}' THEN RETURN; END IF;
  SELECT array_agg(y.request), array_agg(y.id), array_agg(y.agent_id), array_agg(y.load),
      array_agg(y.generality)
    INTO requests, ids, names, loads, generalities
    FROM (
      SELECT * FROM (
        SELECT * FROM unnest(requests, ids, names, loads, generalities)
            u (request, id, agent_id, load, generality)
        UNION
        SELECT r.id, c.id, c.agent_id, c.load::int, c.generality::int
          FROM unnest(rs) r CROSS JOIN LATERAL unnest(able_agents_1(r, held,
            4 + cardinality(array_positions(types, r.agent_type)))) c
          WHERE r.id = ANY (scanty)) x
      ORDER BY x.request, x.load, x.generality, x.id) y;
END $$
