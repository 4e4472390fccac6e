-- grant_1: give one slot of a locked agent to a request: reserve, insert the lease, write the event.
-- The caller holds the agent's row lock and, for a request that is already stored, that one's too.
-- The fencing token is drawn here, after agent and lock keys are held, so that the later holder
-- always has the larger token.
CREATE FUNCTION grant_1(
  INOUT r request, a agent, tier text, t timing_1, OUT l lease
) LANGUAGE plpgsql AS $$
DECLARE
  at timestamptz := clock_timestamp();
BEGIN
  UPDATE agent SET load = load + 1, status = CASE WHEN status = 'idle' THEN 'busy' ELSE status END,
      used_memory_mb = used_memory_mb + r.memory_mb,
      used_cpu_cores = used_cpu_cores + r.cpu_cores,
      used_token_budget = used_token_budget + r.token_budget,
      used_disk_space_mb = used_disk_space_mb + r.disk_space_mb
    WHERE id = a.id;

  r.status := 'granted';
  r.reason := '';
  r.attempts := r.attempts + 1;
  r.granted_at := at;
  r.not_before := NULL;

  l.id := gen_random_uuid();
  l.fencing_token := nextval('lease_fencing_token_seq');
  l.slot := 1;
  IF a.load > 0 THEN
    SELECT min(s) INTO l.slot FROM generate_series(1, a.max_concurrent) s
      WHERE NOT EXISTS (SELECT FROM lease o
        WHERE o.agent_id = a.id AND o.slot = s AND o.status IN ('active', 'offered'));
  END IF;
  INSERT INTO lease (
      id, fencing_token, request_id, agent_id, incarnation, slot, agent_type, project, cycle_id,
      phase, attempt, status, memory_mb, cpu_cores, token_budget, disk_space_mb,
      network_bandwidth_mbps, network, decision, offered_at, acquired_at, expires_at, hard_end_at,
      waited_s, outcome, error, progress_counter, progress_phase, progress_note,
      measured_memory_mb, peak_memory_mb, measured_cpu_cores, cpu_seconds, measured_disk_space_mb,
      tokens_in, tokens_out, cost_usd)
    VALUES (
      l.id, l.fencing_token, r.id, a.id, a.incarnation, l.slot, r.agent_type, r.project, r.cycle_id,
      r.phase, r.attempts, CASE WHEN r.payload IS NULL THEN 'active' ELSE 'offered' END,
      r.memory_mb, r.cpu_cores, r.token_budget, r.disk_space_mb,
      10, CASE WHEN r.network_access THEN 2 ELSE 0 END, jsonb_build_object('tier', tier,
        'strategy', 'least_loaded', 'score', -a.load, 'parts', jsonb_build_object('load', a.load)),
      CASE WHEN r.payload IS NOT NULL THEN at END, at,
      at + make_interval(secs => least(r.duration_limit_s,
        CASE WHEN r.payload IS NULL THEN t.run_lease_s ELSE t.offer_s END)),
      at + make_interval(secs => r.duration_limit_s),
      extract(epoch FROM at - r.queued_at), '', '', 0, '', '', 0, 0, 0, 0, 0, 0, 0, 0)
    RETURNING * INTO l;
  INSERT INTO lock_key (key, lease_id) SELECT DISTINCT k, l.id FROM unnest(r.lock_keys) k;
  INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, detail)
    VALUES ('lease.' || l.status, r.agent_type, a.agent_id, r.project, r.id, l.id,
      jsonb_build_object('cycle_id', r.cycle_id, 'phase', r.phase, 'attempt', r.attempts,
        'fencing_token', l.fencing_token, 'tier', tier, 'waited_s', round(l.waited_s::numeric, 3)));
END $$
