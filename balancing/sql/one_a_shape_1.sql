-- one_a_shape_1: of the requests that wait in some pools one of each shape, at most `most` shapes of a
-- pool: what fits one fits all of its shape. Plain reads: a loose walk over index
-- request_waiting_shapes.
CREATE FUNCTION one_a_shape_1(types text[], most int)
RETURNS TABLE (agent_type text, shape bigint, id uuid) LANGUAGE sql STABLE AS $$
  WITH RECURSIVE walk AS (
    SELECT k AS agent_type, 1 AS n, (SELECT q.shape FROM request q
        WHERE q.agent_type = k AND q.status = 'waiting' ORDER BY q.shape LIMIT 1) AS shape
      FROM unnest(types) k
    UNION ALL
    SELECT w.agent_type, w.n + 1, (SELECT q.shape FROM request q
        WHERE q.agent_type = w.agent_type AND q.status = 'waiting' AND q.shape > w.shape
        ORDER BY q.shape LIMIT 1)
      FROM walk w WHERE w.shape IS NOT NULL AND w.n <= most)
  SELECT w.agent_type, w.shape, (SELECT q.id FROM request q WHERE q.agent_type = w.agent_type
      AND q.status = 'waiting' AND q.shape = w.shape LIMIT 1)
    FROM walk w WHERE w.shape IS NOT NULL
$$
