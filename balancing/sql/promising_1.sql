-- promising_1: of the agents that are known at a request's kind of work, those that promise most, at
-- most 12 of the first 64 by outlook_best; and the 8 least loaded, known or not, of the first 64.
-- Plain reads, locks nothing. held: agents to leave out.
CREATE FUNCTION promising_1(r request, held uuid[]) RETURNS agent[] LANGUAGE sql STABLE AS $$
  SELECT array_agg(a) FROM agent a WHERE a.id IN (
    (SELECT x.id FROM (
      SELECT b.id, b.agent_type = r.agent_type AND b.status IN ('busy', 'idle')
          AND b.health IN ('good', 'probation', 'unknown') AND b.load < b.max_concurrent
          AND b.id <> ALL (held) AND fits_1(b, r) AS fits
        FROM outlook o JOIN agent b ON b.id = o.agent_id
        WHERE o.agent_type = r.agent_type AND o.story_type = r.story_type
          AND o.agent_id IS NOT NULL
        ORDER BY o.ratio LIMIT 64) x
      WHERE x.fits LIMIT 12)
    UNION
    (SELECT x.id FROM (
      SELECT b.id, fits_1(b, r) AS fits FROM agent b
        WHERE b.agent_type = r.agent_type AND b.status IN ('busy', 'idle')
          AND b.health IN ('good', 'probation', 'unknown') AND b.load < b.max_concurrent
          AND b.id <> ALL (held)
        ORDER BY b.load, b.generality LIMIT 64) x
      WHERE x.fits LIMIT 8))
$$
