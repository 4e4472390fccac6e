-- waiting_shapes_1: the shapes of waiting requests of its pool that this agent fits now; null when
-- there is none. Plain reads: a loose walk over index request_waiting_shapes, 200 shapes at most.
CREATE FUNCTION waiting_shapes_1(a agent) RETURNS bigint[] LANGUAGE sql STABLE AS $$
  WITH RECURSIVE shape AS (
    (SELECT q.shape, 1 AS n FROM request q
      WHERE q.agent_type = a.agent_type AND q.status = 'waiting' ORDER BY q.shape LIMIT 1)
    UNION ALL
    SELECT (SELECT q.shape FROM request q
      WHERE q.agent_type = a.agent_type AND q.status = 'waiting' AND q.shape > s.shape
      ORDER BY q.shape LIMIT 1), s.n + 1
    FROM shape s WHERE s.shape IS NOT NULL AND s.n <= 200)
  SELECT array_agg(s.shape) FROM shape s
    WHERE s.shape IS NOT NULL AND fits_1(a, (
      SELECT q FROM request q
        WHERE q.agent_type = a.agent_type AND q.status = 'waiting' AND q.shape = s.shape LIMIT 1))
$$
