-- near_1: for requests that go by least_loaded alone, the agents that fit, the least loaded first, of
-- those the plainest, of equals by chance: else all that look at once would try the same one.
-- rs, these: one of each shape in each pool, and the places in rs of those that are meant, all of which
-- able_among_1 has found able; asked: the pool of each request that it is for: of so many agents, and
-- four, these take from each other. Of equal places in the other lists: the place in rs, the agent, its
-- name, load and generality. Plain reads, locks nothing. mine, held: as of candidates_1.
-- One statement does for all to whom the front of the index has enough to offer, which is nearly
-- always; for the others it is able_agents_1 that looks further.
CREATE FUNCTION near_1(
  rs request[], these int[], asked text[], mine agent[], held uuid[],
  OUT looks int[], OUT ids uuid[], OUT names text[], OUT loads int[], OUT generalities int[]
) LANGUAGE plpgsql AS $$
DECLARE
  scanty int[];
  place int;
BEGIN
  -- Field by field: of a row that is passed as a whole, each test would dig out its field anew.
  WITH need AS MATERIALIZED (
      SELECT n AS look, (rs[n]).id, (rs[n]).agent_type, least_memory_1(rs[n]) AS memory,
          least_cpu_1(rs[n]) AS cpu, (rs[n]).token_budget, (rs[n]).disk_space_mb,
          (rs[n]).security_level::smallint, (rs[n]).isolation_level::smallint,
          (rs[n]).special_tools, (rs[n]).capabilities, (rs[n]).labels, (rs[n]).avoid_agents,
          (rs[n]).rules, 4 + cardinality(array_positions(asked, (rs[n]).agent_type)) AS wanted
        FROM unnest(these) n)
  SELECT array_agg(c.look), array_agg(c.id), array_agg(c.agent_id), array_agg(c.load),
      array_agg(c.generality)
    INTO looks, ids, names, loads, generalities
    FROM need n CROSS JOIN LATERAL (
      SELECT n.look, y.* FROM (
        (SELECT x.id, x.agent_id, x.load, x.generality, false AS is_mine FROM (
            SELECT a.id, a.agent_id, a.load::int AS load, a.generality::int AS generality,
                fits_needs_1(a, n.id, n.memory, n.cpu, n.token_budget, n.disk_space_mb,
                  n.security_level, n.isolation_level, n.special_tools, n.capabilities, n.labels,
                  n.avoid_agents, n.rules) AS fits
              FROM agent a
              WHERE a.agent_type = n.agent_type AND a.status IN ('busy', 'idle')
                AND a.health IN ('good', 'probation', 'unknown')
                AND a.load < a.max_concurrent AND a.id <> ALL (held)
              ORDER BY a.load, a.generality LIMIT 64) x
          WHERE x.fits LIMIT n.wanted)
        UNION ALL
        SELECT m.id, m.agent_id, m.load::int, m.generality::int, true FROM unnest(mine) m
          WHERE m.agent_type = n.agent_type AND m.status IN ('busy', 'idle')
            AND m.health IN ('good', 'probation', 'unknown') AND m.load < m.max_concurrent
            AND fits_needs_1(m, n.id, n.memory, n.cpu, n.token_budget, n.disk_space_mb,
              n.security_level, n.isolation_level, n.special_tools, n.capabilities, n.labels,
              n.avoid_agents, n.rules)) y
      ORDER BY y.load, y.generality, y.is_mine DESC, random()) c;

  -- Was the front all there is?
  FOREACH place IN ARRAY these LOOP
    IF looks IS NULL OR cardinality(array_positions(looks, place)) < 4 THEN
      scanty := scanty || place;
    END IF;
  END LOOP;
  IF scanty IS NULL THEN RETURN; END IF;
  scanty := ARRAY(SELECT n FROM unnest(scanty) n WHERE EXISTS (SELECT FROM agent a
      WHERE a.agent_type = (rs[n]).agent_type AND a.status IN ('busy', 'idle')
        AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
      ORDER BY a.load, a.generality OFFSET 64 LIMIT 1));
  IF scanty = '{}' THEN RETURN; END IF;
  SELECT array_agg(y.look), array_agg(y.id), array_agg(y.agent_id), array_agg(y.load),
      array_agg(y.generality)
    INTO looks, ids, names, loads, generalities
    FROM (
      SELECT * FROM (
        SELECT * FROM unnest(looks, ids, names, loads, generalities)
            u (look, id, agent_id, load, generality)
        UNION
        SELECT n, c.id, c.agent_id, c.load::int, c.generality::int
          FROM unnest(scanty) n CROSS JOIN LATERAL unnest(able_agents_1(rs[n], held,
            4 + cardinality(array_positions(asked, (rs[n]).agent_type)))) c) x
      ORDER BY x.look, x.load, x.generality, random()) y;
END $$
