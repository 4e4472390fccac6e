-- serveable_pools_1: the pools where somebody waits whom some agent with a free slot fits now. The
-- same gate that serve_1 has: those who wait for what is not there cost no look of their own.
-- Settings as of acquire_1.
CREATE FUNCTION serveable_pools_1() RETURNS SETOF text LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_material = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  types text[] := ARRAY(SELECT p.agent_type FROM pool p WHERE EXISTS
    (SELECT FROM request q WHERE q.agent_type = p.agent_type AND q.status = 'waiting'));
BEGIN
  IF types <> '{}' THEN
    RETURN QUERY SELECT DISTINCT s.agent_type FROM serveable_shapes_1(types) s;
  END IF;
END $$
