-- acquire_1: store a request and, if an agent that fits is free, grant it in the same statement.
-- p_request: all columns of the request by name; number, shape and times are set here.
-- code: granted; waiting (stored: after the commit the caller must call serve_1: publish, then
-- look); and, with nothing stored: exhausted (p_queue false, nobody is free), unsatisfiable (no
-- agent, template or limit could ever serve it), queue_full, unknown_type, and again: what is free
-- under a limit is spread too thin; repeat in a new transaction with p_exact, which may wait.
CREATE FUNCTION acquire_1(
  p_request jsonb, p_queue boolean, p_exact boolean, t timing_1,
  OUT code text, OUT request_id uuid, OUT l lease, OUT agent_name text, OUT endpoint text
) LANGUAGE plpgsql AS $$
DECLARE
  r request := jsonb_populate_record(NULL::request, p_request);
  p policy_1 := policy_of_1(r.agent_type, r.project);
  a agent;
  c record;
BEGIN
  request_id := r.id;
  IF p IS NULL OR p.strategy IS NULL THEN code := 'unknown_type'; RETURN; END IF;
  r.number := nextval('request_number_seq');
  r.memory_mb := greatest(r.memory_mb, p.least_memory_mb);
  r.min_memory_mb := greatest(r.min_memory_mb, p.least_memory_mb);
  r.cpu_cores := greatest(r.cpu_cores, p.least_cpu_cores);
  r.min_cpu_cores := greatest(r.min_cpu_cores, p.least_cpu_cores);
  r.shape := shape_1(r);
  r.created_at := clock_timestamp();
  r.queued_at := r.created_at;
  r.expires_at := r.created_at + make_interval(secs => r.ttl_s);
  IF p_exact AND p.limits IS NOT NULL THEN PERFORM limits_lock_1(p.limits); END IF;

  code := CASE WHEN p_queue THEN 'waiting' ELSE 'exhausted' END;
  IF within_1(r, p) AND (r.lock_keys = '{}' OR keys_free_1(r.lock_keys)) THEN
    SELECT * INTO c FROM pick_1(r, p);
    a := c.chosen;
    IF a.id IS NOT NULL THEN
      l := grant_1(r, a, p, c.decision, p_exact, t);
      IF l.id IS NOT NULL THEN
        r.status := 'granted';
        r.attempts := l.attempt;
        r.granted_at := l.acquired_at;
        code := 'granted';
      ELSIF NOT p_exact THEN
        code := 'again';
      END IF;
    END IF;
  END IF;
  IF p_exact AND p.limits IS NOT NULL THEN
    PERFORM limits_spread_1(p.limits, r.memory_mb, r.cpu_cores, r.token_budget, r.disk_space_mb, 10);
  END IF;

  IF code = 'granted' THEN
    agent_name := a.agent_id;
    endpoint := a.endpoint;
    INSERT INTO request SELECT r.*;
    PERFORM granted_event_1(l, a.agent_id, false);
  ELSIF code <> 'again' THEN
    IF a.id IS NULL AND NOT satisfiable_1(r, p) THEN
      IF r.allow_future AND p_queue THEN
        r.unsatisfiable := true;
      ELSE
        code := 'unsatisfiable';
      END IF;
    END IF;
    IF code = 'waiting' AND queue_full_1(r) THEN code := 'queue_full'; END IF;
    IF code = 'waiting' THEN
      INSERT INTO request SELECT r.*;
      PERFORM share_enter_1(r.agent_type, r.project, p.share_half_life_s);
      INSERT INTO event (kind, agent_type, project, request_id, actor, detail)
        VALUES ('request.waiting', r.agent_type, r.project, r.id, r.requested_by,
          jsonb_build_object('cycle_id', r.cycle_id, 'phase', r.phase, 'reason', 'arrived'));
    ELSE
      -- Demand is counted at arrival, also what was refused.
      INSERT INTO event (kind, agent_type, project, request_id, actor, detail)
        VALUES ('request.refused', r.agent_type, r.project, r.id, r.requested_by,
          jsonb_build_object('cycle_id', r.cycle_id, 'phase', r.phase, 'reason', code));
    END IF;
  END IF;
END $$
