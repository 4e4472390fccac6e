-- fitting_1: agents with a free slot that fit a request, the least loaded first, of those the plainest;
-- at most `wanted`, never none while there is one. mine, held: as of candidates_1. Plain reads.
-- Looks at 64 agents in index order, which is the order asked for. Where those that fit are taken away
-- from the front again and again, it is full of others; then able_agents_1 knows
-- where to look.
CREATE FUNCTION fitting_1(r request, mine agent[], held uuid[], wanted int)
RETURNS agent[] LANGUAGE plpgsql STABLE AS $$
DECLARE
  found agent[] := ARRAY(SELECT x.a FROM (
      SELECT a, fits_1(a, r) AS fits FROM agent a
        WHERE a.agent_type = r.agent_type AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
          AND a.id <> ALL (held)
        ORDER BY a.load, a.generality LIMIT 64) x
    WHERE x.fits LIMIT wanted);
  is_sorted boolean := true;
BEGIN
  IF cardinality(found) < least(wanted, 4) AND EXISTS (
    SELECT FROM agent a
      WHERE a.agent_type = r.agent_type AND a.status IN ('busy', 'idle')
        AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
      ORDER BY a.load, a.generality OFFSET 64 LIMIT 1
  ) THEN
    is_sorted := false;
    found := found || able_agents_1(r, held, wanted);
  END IF;
  IF cardinality(mine) > 0 THEN
    is_sorted := false;
    found := found || ARRAY(SELECT m FROM unnest(mine) m
      WHERE m.agent_type = r.agent_type AND m.status IN ('busy', 'idle')
        AND m.health IN ('good', 'probation', 'unknown') AND m.load < m.max_concurrent
        AND fits_1(m, r));
  END IF;
  IF is_sorted OR cardinality(found) < 2 THEN RETURN found; END IF;
  RETURN ARRAY(SELECT x.a FROM (SELECT DISTINCT ON (a.id) a, a.id, a.load, a.generality
      FROM unnest(found) a ORDER BY a.id) x
    ORDER BY x.load, x.generality, x.id LIMIT wanted);
END $$
