-- close_many_1: end several leases in one transaction, each as close_1 would. Leases and agents are
-- locked in the order of their ids first, so that two batches never wait for each other in a ring.
-- p_closes: a list of {lease, token, to, outcome, error, result, usage, retry, request_to, actor,
-- asker, agent}. One row each, in their order.
CREATE FUNCTION close_many_1(p_closes jsonb, t timing_1)
RETURNS TABLE (
  code text, l lease, agent_name text, endpoint text, handed_over uuid, pools text[]
) LANGUAGE plpgsql AS $$
DECLARE
  ids uuid[] := ARRAY(SELECT (x->>'lease')::uuid FROM jsonb_array_elements(p_closes) x);
BEGIN
  PERFORM FROM lease x WHERE x.id = ANY (ids) ORDER BY x.id FOR NO KEY UPDATE;
  PERFORM FROM agent a WHERE a.id IN (SELECT x.agent_id FROM lease x WHERE x.id = ANY (ids))
    ORDER BY a.id FOR NO KEY UPDATE;
  RETURN QUERY SELECT c.* FROM jsonb_array_elements(p_closes) WITH ORDINALITY x (e, n)
    CROSS JOIN LATERAL close_1((e->>'lease')::uuid, (e->>'token')::bigint, e->>'to',
      e->>'outcome', e->>'error', nullif(e->'result', 'null'), e->'usage',
      (e->>'retry')::boolean, e->>'request_to', NULL, t, e->>'actor', e->>'asker',
      (e->>'agent')::uuid) c
    ORDER BY x.n;
END $$
