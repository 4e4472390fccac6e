-- serveable_shapes_1: the shapes of waiting requests that some agent with a free slot fits now;
-- null when there is none. Plain reads: a loose walk over index request_waiting_shapes. An agent
-- that is kept fits one request only, so it is asked about that one, not about one of its shape.
CREATE FUNCTION serveable_shapes_1(p_type text) RETURNS bigint[] LANGUAGE sql STABLE AS $$
  WITH RECURSIVE shape AS (
    (SELECT q.shape FROM request q
      WHERE q.agent_type = p_type AND q.status = 'waiting' ORDER BY q.shape LIMIT 1)
    UNION ALL
    SELECT (SELECT q.shape FROM request q
      WHERE q.agent_type = p_type AND q.status = 'waiting' AND q.shape > s.shape
      ORDER BY q.shape LIMIT 1)
    FROM shape s WHERE s.shape IS NOT NULL)
  SELECT array_agg(s.shape) FROM shape s
    WHERE s.shape IS NOT NULL AND (EXISTS (
      SELECT FROM (SELECT q FROM request q
          WHERE q.agent_type = p_type AND q.status = 'waiting' AND q.shape = s.shape LIMIT 1) one,
        agent a
      WHERE a.agent_type = p_type AND a.status IN ('busy', 'idle')
        AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
        AND fits_1(a, one.q))
    OR s.shape IN (
      SELECT q.shape FROM agent a JOIN request q ON q.id = a.reserved_for
        WHERE a.reserved_for IS NOT NULL AND q.agent_type = p_type AND q.status = 'waiting'
          AND a.agent_type = p_type AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
          AND fits_1(a, q)))
$$
