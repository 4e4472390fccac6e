-- serveable_shapes_1: the shapes of requests waiting in some pools that some agent with a free slot
-- fits now. Plain reads. An agent that is kept fits one request only, so it is asked about that one,
-- not about one of its shape. OFFSET: none but those are judged, however small the tables seem.
CREATE FUNCTION serveable_shapes_1(types text[]) RETURNS TABLE (agent_type text, shape bigint)
LANGUAGE sql STABLE AS $$
  SELECT one.agent_type, one.shape FROM one_a_shape_1(types, 2147483646) one,
    LATERAL (SELECT q FROM request q WHERE q.id = one.id OFFSET 0) w WHERE fitted_1(w.q)
  UNION
  SELECT (k.a).agent_type, q.shape FROM (
      SELECT a FROM agent a WHERE a.reserved_for IS NOT NULL OFFSET 0) k,
    LATERAL (SELECT q.shape FROM request q
      WHERE q.id = (k.a).reserved_for AND q.status = 'waiting' AND q.agent_type = (k.a).agent_type
        AND fits_1(k.a, q) LIMIT 1) q
    WHERE (k.a).agent_type = ANY (types) AND (k.a).status IN ('busy', 'idle')
      AND (k.a).health IN ('good', 'probation', 'unknown') AND (k.a).load < (k.a).max_concurrent
$$
