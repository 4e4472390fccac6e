-- close_1: end leases in one transaction, each by compare-and-set on (id, token, live status). Whoever
-- changes the row frees slot, amounts, limits and lock keys, decides what becomes of the request,
-- leaves the outcome row, and hands the freed slot over; everybody else gets code 'lease_lost' and
-- has changed nothing.
-- p_closes: a list of {lease, token, to, outcome, error, result, usage, retry, request_to, overdue_s,
-- actor, asker, agent}. token null: the server itself ends it. overdue_s: only if it expired that
-- long ago (time only permits the reaper; the row decides). retry: the request waits again, with
-- back-off, until its attempts are used up; request_to: its status when it does not. asker, agent:
-- only a lease that this principal asked for, or of this agent ('not_found'). What is null may be left
-- out. One row each, in order; pools: the types whose queue must be looked at after the commit.
-- Locks in this order: leases by id, agents by id, requests (the caller must hold none of the later).
CREATE FUNCTION close_1(p_closes jsonb, t timing_1)
RETURNS TABLE (
  code text, l lease, agent_name text, endpoint text, handed_over uuid, pools text[]
) LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_material = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN QUERY SELECT d.codes[i], d.ls[i], d.names[i], d.endpoints[i], d.handed[i],
      CASE d.codes[i] WHEN 'ok' THEN d.concerned ELSE '{}' END
    FROM ends_1(p_closes, t, true) d, generate_subscripts(d.codes, 1) i;
END $$
