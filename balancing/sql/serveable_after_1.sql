-- serveable_after_1: the pools whose queue must be looked at after an exchange: who waits there may fit
-- an agent that these leases were on, or is one of these requests. What they free of a limit
-- or of lock keys may serve anybody: then all pools where somebody fits (serveable_pools_1). So an
-- exchange looks at what it has changed, however many agents and waiting requests there are. Plain
-- reads, to be asked in a transaction of its own. Settings as of acquire_1.
CREATE FUNCTION serveable_after_1(p_ended uuid[], p_asked uuid[])
RETURNS SETOF text LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_material = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  types text[] := ARRAY(SELECT p.agent_type FROM pool p WHERE EXISTS
    (SELECT FROM request q WHERE q.agent_type = p.agent_type AND q.status = 'waiting'));
  freed agent[];
  takers uuid[];
BEGIN
  IF types = '{}' THEN RETURN; END IF;
  IF EXISTS (SELECT FROM resource_limit) OR EXISTS (SELECT FROM lease l
      JOIN request q ON q.id = l.request_id WHERE l.id = ANY (p_ended) AND q.lock_keys <> '{}') THEN
    RETURN QUERY SELECT k FROM serveable_pools_1() k;
    RETURN;
  END IF;
  freed := ARRAY(SELECT a FROM agent a WHERE a.id = ANY (ARRAY(
    SELECT l.agent_id FROM lease l WHERE l.id = ANY (p_ended))));
  takers := takers_1(freed, types, 2147483646);
  RETURN QUERY
    SELECT u.agent_type::text FROM unnest(freed) u WHERE u.id = ANY (takers)
    UNION
    SELECT (w.q).agent_type::text FROM (SELECT unnest(p_asked)
        UNION SELECT l.request_id FROM lease l WHERE l.id = ANY (p_ended)) own (id),
      LATERAL (SELECT q FROM request q WHERE q.id = own.id OFFSET 0) w
      WHERE (w.q).status = 'waiting' AND fitted_1(w.q);
END $$
