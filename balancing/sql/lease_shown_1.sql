-- lease_shown_1: a lease as every door shows it (balancing.serializers.lease_json; a test holds the
-- two together). Made here where thousands a second are answered: it spares building the row again
-- in Python only to write it as JSON.
CREATE FUNCTION lease_shown_1(l lease, p_agent text, p_endpoint text) RETURNS json LANGUAGE plpgsql
IMMUTABLE AS $$
BEGIN
  IF l.id IS NULL THEN RETURN NULL; END IF;
  RETURN json_build_object(
    'id', l.id, 'request_id', l.request_id,
    'agent', json_build_object('agent_id', p_agent, 'endpoint', p_endpoint),
    'agent_type', l.agent_type, 'project', l.project, 'cycle_id', l.cycle_id, 'phase', l.phase,
    'attempt', l.attempt, 'status', l.status, 'fencing_token', l.fencing_token,
    'grant', json_build_object('memory_mb', l.memory_mb, 'cpu_cores', l.cpu_cores::float8,
      'token_budget', l.token_budget, 'disk_space_mb', l.disk_space_mb,
      'network_bandwidth_mbps', l.network_bandwidth_mbps, 'network',
      (ARRAY['none', 'test_only', 'limited', 'full'])[l.network + 1]),
    'usage', json_build_object('memory_mb', l.measured_memory_mb,
      'peak_memory_mb', l.peak_memory_mb, 'cpu_cores', l.measured_cpu_cores,
      'cpu_seconds', l.cpu_seconds, 'disk_space_mb', l.measured_disk_space_mb,
      'tokens_in', l.tokens_in, 'tokens_out', l.tokens_out, 'cost_usd', l.cost_usd::float8),
    'progress', json_build_object('counter', l.progress_counter, 'phase', l.progress_phase,
      'note', l.progress_note, 'at', l.progress_at),
    'offered_at', l.offered_at, 'acked_at', l.acked_at, 'acquired_at', l.acquired_at,
    'expires_at', l.expires_at, 'hard_end_at', l.hard_end_at, 'released_at', l.released_at,
    'waited_s', round(l.waited_s::numeric, 3), 'outcome', nullif(l.outcome, ''), 'error', l.error,
    'decision', l.decision);
END $$
