-- takers_1: which of these agents, as they are in memory, could take a request that waits in one of
-- these pools: some shape fits, `most` of a pool looked at, or the agent is kept for one. Plain reads.
CREATE FUNCTION takers_1(agents agent[], types text[], most int)
RETURNS uuid[] LANGUAGE sql STABLE AS $$
  WITH one AS MATERIALIZED (
    SELECT o.agent_type, w.q FROM one_a_shape_1(types, most) o,
      LATERAL (SELECT q FROM request q WHERE q.id = o.id OFFSET 0) w)
  SELECT coalesce(array_agg(a.id), '{}') FROM unnest(agents) a
    WHERE a.status IN ('busy', 'idle') AND a.health IN ('good', 'probation', 'unknown')
      AND a.load < a.max_concurrent AND a.agent_type = ANY (types)
      AND (a.reserved_for IS NOT NULL OR EXISTS (
        SELECT FROM one WHERE one.agent_type = a.agent_type AND fits_1(a, one.q)))
$$
