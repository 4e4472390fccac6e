-- resume_1: a parked lease goes on, on its agent, with a new fencing token: whatever its holder wrote
-- with the old one from now on is refused. code: ok; lease_lost; agent_busy (no slot or not enough
-- is free there now, nothing has changed); again (limits: repeat with p_exact).
CREATE FUNCTION resume_1(
  p_lease uuid, p_token bigint, p_actor text, p_exact boolean, t timing_1,
  OUT code text, OUT token bigint
) LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  l lease;
  a agent;
  p policy_1;
BEGIN
  code := 'lease_lost';
  SELECT * INTO l FROM lease WHERE id = p_lease;
  IF NOT FOUND THEN RETURN; END IF;
  p := policy_of_1(l.agent_type, l.project);
  IF p_exact AND p.limits IS NOT NULL THEN PERFORM limits_lock_1(p.limits); END IF;
  SELECT * INTO l FROM lease
    WHERE id = p_lease AND fencing_token = p_token AND status = 'parked' FOR NO KEY UPDATE;
  IF FOUND THEN
    SELECT * INTO a FROM agent x
      WHERE x.id = l.agent_id AND x.incarnation = l.incarnation
        AND x.status IN ('busy', 'idle', 'draining') AND x.load < x.max_concurrent
        AND (x.reserved_for IS NULL OR x.reserved_for = l.request_id)
        AND x.memory_mb - x.used_memory_mb >= l.memory_mb
        AND x.cpu_cores - x.used_cpu_cores >= l.cpu_cores
        AND x.token_budget - x.used_token_budget >= l.token_budget
        AND x.disk_space_mb - x.used_disk_space_mb >= l.disk_space_mb
      FOR NO KEY UPDATE;
    IF NOT FOUND THEN
      code := 'agent_busy';
    ELSIF p.limits IS NOT NULL AND NOT limits_take_1(p.limits, l.request_id, p_exact, l.memory_mb,
        l.cpu_cores, l.token_budget, l.disk_space_mb, l.network_bandwidth_mbps) THEN
      code := CASE WHEN p_exact THEN 'agent_busy' ELSE 'again' END;
    ELSE
      code := 'ok';
      token := nextval('lease_fencing_token_seq');
      UPDATE agent SET load = load + 1,
          status = CASE WHEN status = 'idle' THEN 'busy' ELSE status END,
          used_memory_mb = used_memory_mb + l.memory_mb,
          used_cpu_cores = used_cpu_cores + l.cpu_cores,
          used_token_budget = used_token_budget + l.token_budget,
          used_disk_space_mb = used_disk_space_mb + l.disk_space_mb
        WHERE id = a.id;
      UPDATE lease SET status = 'active', fencing_token = token, parked_at = NULL,
          parked_s = coalesce(parked_s, 0)
            + coalesce(extract(epoch FROM clock_timestamp() - parked_at)::float8, 0),
          slot = (SELECT min(s) FROM generate_series(1, a.max_concurrent) s
            WHERE NOT EXISTS (SELECT FROM lease o WHERE o.agent_id = a.id AND o.slot = s
              AND o.status IN ('active', 'offered'))),
          expires_at = least(hard_end_at, clock_timestamp() + make_interval(secs => t.run_lease_s))
        WHERE id = l.id;
      INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, actor, detail)
        VALUES ('lease.resumed', l.agent_type, a.agent_id, l.project, l.request_id, l.id, p_actor,
          jsonb_build_object('cycle_id', l.cycle_id, 'phase', l.phase, 'fencing_token', token));
    END IF;
  END IF;
  IF p_exact AND p.limits IS NOT NULL THEN
    PERFORM limits_spread_1(p.limits, l.memory_mb, l.cpu_cores, l.token_budget, l.disk_space_mb, 10);
  END IF;
END $$
