-- waiting_shapes_1: the shapes of waiting requests of its pool that this agent fits now; null when
-- there is none. Plain reads, 200 shapes at most.
CREATE FUNCTION waiting_shapes_1(a agent) RETURNS bigint[] LANGUAGE sql STABLE AS $$
  SELECT array_agg(one.shape) FROM one_a_shape_1(ARRAY[a.agent_type::text], 200) one,
    LATERAL (SELECT q FROM request q WHERE q.id = one.id OFFSET 0) w WHERE fits_1(a, w.q)
$$
