-- resize_1: change what an active lease reserves (null: that amount stays), inside its agent, the
-- ceilings of its profile and the limits. code: ok; lease_lost; exhausted (what is free now does not
-- allow it, nothing has changed); unsatisfiable (a ceiling never does); again (repeat with p_exact).
CREATE FUNCTION resize_1(
  p_lease uuid, p_token bigint, p_memory bigint, p_cpu numeric, p_tokens bigint, p_disk bigint,
  p_actor text, p_exact boolean, OUT code text
) LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  l lease;
  n lease;
  a agent;
  r request;
  p policy_1;
BEGIN
  code := 'lease_lost';
  SELECT * INTO l FROM lease WHERE id = p_lease;
  IF NOT FOUND THEN RETURN; END IF;
  p := policy_of_1(l.agent_type, l.project);
  IF p_exact AND p.limits IS NOT NULL THEN PERFORM limits_lock_1(p.limits); END IF;
  SELECT * INTO l FROM lease
    WHERE id = p_lease AND fencing_token = p_token AND status = 'active' FOR NO KEY UPDATE;
  IF FOUND THEN
    SELECT * INTO r FROM request WHERE id = l.request_id;
    n := l;
    n.memory_mb := coalesce(p_memory, l.memory_mb);
    n.cpu_cores := coalesce(p_cpu, l.cpu_cores);
    n.token_budget := coalesce(p_tokens, l.token_budget);
    n.disk_space_mb := coalesce(p_disk, l.disk_space_mb);
    SELECT * INTO a FROM agent WHERE id = l.agent_id FOR NO KEY UPDATE;
    -- What is above a ceiling that was lowered meanwhile may stay or shrink, not grow.
    IF coalesce(n.memory_mb > l.memory_mb AND n.memory_mb > p.ceiling_memory_mb
          OR n.cpu_cores > l.cpu_cores AND n.cpu_cores > p.ceiling_cpu_cores
          OR n.token_budget > l.token_budget AND n.token_budget > p.ceiling_token_budget
          OR n.disk_space_mb > l.disk_space_mb AND n.disk_space_mb > p.ceiling_disk_space_mb, false)
        OR n.token_budget > r.token_budget OR n.memory_mb < least(r.min_memory_mb, l.memory_mb)
        OR n.cpu_cores < least(r.min_cpu_cores, l.cpu_cores) THEN
      code := 'unsatisfiable';
    ELSIF a.memory_mb - a.used_memory_mb < n.memory_mb - l.memory_mb
        OR a.cpu_cores - a.used_cpu_cores < n.cpu_cores - l.cpu_cores
        OR a.token_budget - a.used_token_budget < n.token_budget - l.token_budget
        OR a.disk_space_mb - a.used_disk_space_mb < n.disk_space_mb - l.disk_space_mb THEN
      code := 'exhausted';
    -- Taking less than nothing gives back.
    ELSIF p.limits IS NOT NULL AND NOT limits_take_1(p.limits, l.request_id, p_exact,
        n.memory_mb - l.memory_mb, n.cpu_cores - l.cpu_cores, n.token_budget - l.token_budget,
        n.disk_space_mb - l.disk_space_mb, 0) THEN
      code := CASE WHEN p_exact THEN 'exhausted' ELSE 'again' END;
    ELSE
      code := 'ok';
      UPDATE agent SET used_memory_mb = used_memory_mb + n.memory_mb - l.memory_mb,
          used_cpu_cores = used_cpu_cores + n.cpu_cores - l.cpu_cores,
          used_token_budget = used_token_budget + n.token_budget - l.token_budget,
          used_disk_space_mb = used_disk_space_mb + n.disk_space_mb - l.disk_space_mb
        WHERE id = l.agent_id;
      UPDATE lease SET memory_mb = n.memory_mb, cpu_cores = n.cpu_cores,
          token_budget = n.token_budget, disk_space_mb = n.disk_space_mb WHERE id = l.id;
      INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, actor, detail)
        VALUES ('lease.resized', l.agent_type, a.agent_id, l.project, l.request_id, l.id, p_actor,
          jsonb_build_object('cycle_id', l.cycle_id, 'phase', l.phase,
            'fencing_token', l.fencing_token, 'memory_mb', n.memory_mb, 'cpu_cores', n.cpu_cores,
            'token_budget', n.token_budget, 'disk_space_mb', n.disk_space_mb));
    END IF;
  END IF;
  IF p_exact AND p.limits IS NOT NULL THEN
    PERFORM limits_spread_1(p.limits, l.memory_mb, l.cpu_cores, l.token_budget, l.disk_space_mb, 10);
  END IF;
END $$
