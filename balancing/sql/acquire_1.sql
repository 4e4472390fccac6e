-- acquire_1: store requests and, for those that an agent is free for, grant them, in their order and
-- in one transaction. Decides one by one; what was granted is then written by three statements for
-- all of them, since what a statement costs is mostly its beginning and end.
-- p_requests: a list; each has all columns of a request by name; number, shape and times are set here.
-- code: granted; waiting (stored: after the commit the caller must call serve_1: publish, then
-- look); and, with nothing stored: exhausted (p_queue false, nobody is free), unsatisfiable (no
-- agent, template or limit could ever serve it), queue_full, unknown_type, and again: what is free
-- under a limit is spread too thin; repeat in a new transaction with p_exact, which may wait.
-- Settings: a plan made while the tables are new must not read them from end to end later.
CREATE FUNCTION acquire_1(p_requests jsonb, p_queue boolean, p_exact boolean, t timing_1)
RETURNS TABLE (code text, request_id uuid, l lease, agent_name text, endpoint text)
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
  rs request[] := ARRAY(SELECT jsonb_populate_record(NULL::request, x.r)
    FROM jsonb_array_elements(p_requests) WITH ORDINALITY x (r, n) ORDER BY x.n);
  r request;
  a agent;
  c record;
  p policy_1;
  none_limits boolean;
  policies policy_1[] := '{}';
  known text[] := '{}';
  place int;
  codes text[] := '{}';
  names text[] := '{}';
  endpoints text[] := '{}';
  granted lease[] := '{}';
  -- Granted and not written yet.
  new_requests request[] := '{}';
  new_leases lease[] := '{}';
  new_names text[] := '{}';
BEGIN
  PERFORM FROM resource_limit LIMIT 1;  -- the table's lock first, see policy_of_1
  none_limits := NOT EXISTS (SELECT FROM resource_limit);
  FOR i IN 1..cardinality(rs) LOOP
    r := rs[i];
    l := NULL;
    a := NULL;
    -- Without limits a policy is its pool's; else it is the project's, too.
    place := array_position(known, CASE WHEN none_limits THEN r.agent_type
      ELSE r.agent_type || '/' || r.project END);
    IF place IS NULL THEN
      p := policy_of_1(r.agent_type, r.project);
      policies := policies || p;
      known := known || CASE WHEN none_limits THEN r.agent_type
        ELSE r.agent_type || '/' || r.project END;
    ELSE
      p := policies[place];
    END IF;
    IF p IS NULL OR p.strategy IS NULL THEN
      codes[i] := 'unknown_type';
      CONTINUE;
    END IF;
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
    IF r.affinity <> 'none' AND new_leases <> '{}' THEN
      -- Its agent may be the one that somebody before it in this list was just given.
      PERFORM store_granted_1(new_requests, new_leases, new_names);
      new_requests := '{}';
      new_leases := '{}';
      new_names := '{}';
    END IF;

    code := CASE WHEN p_queue THEN 'waiting' ELSE 'exhausted' END;
    IF within_1(r, p) AND (r.lock_keys = '{}' OR keys_free_1(r.lock_keys)) THEN
      SELECT * INTO c FROM pick_1(r, p);
      a := c.chosen;
      IF a.id IS NOT NULL THEN
        l := grant_1(r, a, p, c.decision, p_exact, t, new_leases);
        IF l.id IS NOT NULL THEN
          r.status := 'granted';
          r.attempts := l.attempt;
          r.granted_at := l.acquired_at;
          code := 'granted';
          names[i] := a.agent_id;
          endpoints[i] := a.endpoint;
          new_requests := new_requests || r;
          new_leases := new_leases || l;
          new_names := new_names || a.agent_id;
        ELSIF NOT p_exact THEN
          code := 'again';
        END IF;
      END IF;
    END IF;
    IF p_exact AND p.limits IS NOT NULL THEN
      PERFORM limits_spread_1(
        p.limits, r.memory_mb, r.cpu_cores, r.token_budget, r.disk_space_mb, 10);
    END IF;
    IF code <> 'granted' AND code <> 'again' THEN
      code := store_waiting_1(r, p, p_queue, a.id IS NULL);
    END IF;
    codes[i] := code;
    granted[i] := l;
  END LOOP;
  IF new_leases <> '{}' THEN
    PERFORM store_granted_1(new_requests, new_leases, new_names);
  END IF;
  FOR i IN 1..cardinality(rs) LOOP
    code := codes[i];
    request_id := rs[i].id;
    l := granted[i];
    agent_name := names[i];
    endpoint := endpoints[i];
    RETURN NEXT;
  END LOOP;
END $$
