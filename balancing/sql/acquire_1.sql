-- acquire_1: store requests and, for those that an agent is free for, grant them, in their order and
-- in one transaction.
-- p_usual: all columns of a request by name, but for number, shape and times, which are set here.
-- p_requests: a list; each has those columns that differ.
-- code: granted; waiting (stored: after the commit the caller must call serve_1: publish, then
-- look); and, with nothing stored: exhausted (p_queue false, nobody is free), locked (p_queue false,
-- whoever is free is held by other transactions just now: repeat), unsatisfiable (no agent, template
-- or limit could ever serve it), queue_full, unknown_type, and again: what is free under a limit is
-- spread too thin; repeat in a new transaction with p_exact, which may wait.
-- Settings: a plan made while the tables are new must not read them from end to end later.
CREATE FUNCTION acquire_1(
  p_usual jsonb, p_requests jsonb, p_queue boolean, p_exact boolean, t timing_1
) RETURNS TABLE (code text, request_id uuid, l lease, agent_name text, endpoint text)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_material = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN QUERY SELECT g.codes[i], g.ids[i], g.ls[i], g.names[i], g.endpoints[i]
    FROM grants_1(p_usual, p_requests, p_queue, p_exact, t, '{}') g,
      generate_subscripts(g.codes, 1) i;
END $$
