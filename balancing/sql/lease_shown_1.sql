-- lease_shown_1: a lease as every door shows it, JSON text (balancing.showing.lease_json; a test
-- holds the two together). Made here where thousands a second are answered: it spares building the
-- row again in Python only to write it as JSON. Put together as text: json_build_object looks up the
-- type of each value anew, for each lease. Words that cannot need quoting are not quoted.
CREATE FUNCTION lease_shown_1(l lease, p_agent text, p_endpoint text) RETURNS text LANGUAGE plpgsql
STABLE AS $$
BEGIN
  IF l.id IS NULL THEN RETURN NULL; END IF;
  RETURN concat('{"id": "', l.id, '", "request_id": "', l.request_id, '", "agent": {"agent_id": "',
    p_agent, '", "endpoint": ', to_json(p_endpoint), '}, "agent_type": "', l.agent_type,
    '", "project": ', to_json(l.project), ', "cycle_id": ', to_json(l.cycle_id), ', "phase": ',
    to_json(l.phase), ', "attempt": ', l.attempt, ', "status": "', l.status,
    '", "fencing_token": ', l.fencing_token, ', "grant": {"memory_mb": ', l.memory_mb,
    ', "cpu_cores": ', l.cpu_cores, ', "token_budget": ', l.token_budget, ', "disk_space_mb": ',
    l.disk_space_mb, ', "network_bandwidth_mbps": ', l.network_bandwidth_mbps, ', "network": "',
    CASE l.network WHEN 0 THEN 'none' WHEN 1 THEN 'test_only' WHEN 2 THEN 'limited'
      ELSE 'full' END,
    '"}, "usage": {"memory_mb": ', l.measured_memory_mb, ', "peak_memory_mb": ', l.peak_memory_mb,
    ', "cpu_cores": ', l.measured_cpu_cores, ', "cpu_seconds": ', l.cpu_seconds,
    ', "disk_space_mb": ', l.measured_disk_space_mb, ', "tokens_in": ', l.tokens_in,
    ', "tokens_out": ', l.tokens_out, ', "cost_usd": ', l.cost_usd,
    '}, "progress": {"counter": ', l.progress_counter,
    CASE WHEN l.progress_phase = '' AND l.progress_note = '' AND l.progress_at IS NULL
      THEN ', "phase": "", "note": "", "at": null'
      ELSE concat(', "phase": ', to_json(l.progress_phase), ', "note": ', to_json(l.progress_note),
        ', "at": ', coalesce(to_json(l.progress_at)::text, 'null')) END,
    '}, "offered_at": ', coalesce(to_json(l.offered_at)::text, 'null'),
    ', "acked_at": ', coalesce(to_json(l.acked_at)::text, 'null'),
    ', "acquired_at": ', to_json(l.acquired_at), ', "expires_at": ', to_json(l.expires_at),
    ', "hard_end_at": ', to_json(l.hard_end_at),
    ', "released_at": ', coalesce(to_json(l.released_at)::text, 'null'),
    ', "waited_s": ', round(l.waited_s::numeric, 3),
    ', "outcome": ', CASE WHEN l.outcome = '' THEN 'null' ELSE concat('"', l.outcome, '"') END,
    ', "error": ', CASE WHEN l.error = '' THEN '""' ELSE to_json(l.error)::text END,
    ', "decision": ', l.decision, '}');
END $$
