-- close_1: end a lease, by compare-and-set on (id, token, live status). Whoever changes the row
-- frees slot, amounts and lock keys, decides what becomes of the request, leaves the outcome row,
-- and hands the freed slot over; everybody else gets code 'lease_lost' and has changed nothing.
-- p_token null: the server itself ends it. p_overdue_s not null: only if it expired that long ago
-- (time only permits the reaper; the row decides). p_retry: the request waits again, with back-off,
-- until its attempts are used up. p_request_to: the request's status when it does not wait again.
-- Locks in this order: lease, agent, request (the caller must hold none of the later ones).
CREATE FUNCTION close_1(
  p_lease uuid, p_token bigint, p_to text, p_outcome text, p_error text, p_result jsonb,
  p_usage jsonb, p_retry boolean, p_request_to text, p_overdue_s float8,
  t timing_1, p_actor text,
  OUT code text, OUT handed_over uuid, OUT pools text[]
) LANGUAGE plpgsql AS $$
DECLARE
  at timestamptz := clock_timestamp();
  was text;
  l lease;
  r request;
  a agent;
  freed text[];
  waits boolean;
BEGIN
  code := 'lease_lost';
  pools := '{}';
  SELECT status INTO was FROM lease
    WHERE id = p_lease AND (p_token IS NULL OR fencing_token = p_token)
      AND status IN ('active', 'offered', 'parked')
      AND (p_overdue_s IS NULL OR expires_at < at - make_interval(secs => p_overdue_s))
    FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  code := 'ok';

  UPDATE lease SET status = p_to, outcome = p_outcome, error = left(p_error, 4000),
      released_at = at,
      peak_memory_mb = greatest(peak_memory_mb, coalesce((p_usage->>'memory_mb')::float8, 0)),
      cpu_seconds = coalesce((p_usage->>'cpu_seconds')::float8, cpu_seconds),
      measured_disk_space_mb = coalesce((p_usage->>'disk_space_mb')::float8, measured_disk_space_mb),
      tokens_in = coalesce((p_usage->>'tokens_in')::bigint, tokens_in),
      tokens_out = coalesce((p_usage->>'tokens_out')::bigint, tokens_out),
      cost_usd = coalesce((p_usage->>'cost_usd')::numeric, cost_usd)
    WHERE id = p_lease RETURNING * INTO l;

  IF was <> 'parked' THEN
    UPDATE agent SET load = load - 1,
        status = CASE
          WHEN load > 1 THEN status
          WHEN status = 'busy' THEN 'idle'
          WHEN status = 'draining' AND retire_when_drained THEN 'retired'
          ELSE status END,
        used_memory_mb = used_memory_mb - l.memory_mb,
        used_cpu_cores = used_cpu_cores - l.cpu_cores,
        used_token_budget = used_token_budget - l.token_budget,
        used_disk_space_mb = used_disk_space_mb - l.disk_space_mb
      WHERE id = l.agent_id RETURNING * INTO a;
    IF a.status = 'retired' THEN
      INSERT INTO event (kind, agent_type, agent_id, actor, detail) VALUES
        ('agent.retired', a.agent_type, a.agent_id, p_actor, '{"reason": "drained"}');
    END IF;
  ELSE
    SELECT * INTO a FROM agent WHERE id = l.agent_id;
  END IF;
  WITH gone AS (DELETE FROM lock_key WHERE lease_id = l.id RETURNING key)
    SELECT array_agg(key) INTO freed FROM gone;

  SELECT * INTO r FROM request WHERE id = l.request_id FOR NO KEY UPDATE;
  waits := p_retry AND r.attempts < t.max_attempts;
  UPDATE request SET
      status = CASE WHEN waits THEN 'waiting' WHEN p_retry THEN 'failed' ELSE p_request_to END,
      reason = CASE WHEN waits THEN 'backing off: ' || p_error
        WHEN p_retry THEN 'attempts used up: ' || p_error ELSE left(p_error, 400) END,
      not_before = CASE WHEN waits THEN at + make_interval(
        secs => t.backoff_s * 2 ^ (r.attempts - 1) * (0.75 + random() / 2)) END,
      queued_at = CASE WHEN waits THEN at ELSE queued_at END,
      expires_at = CASE WHEN waits THEN at + make_interval(secs => ttl_s) ELSE expires_at END,
      outcome = CASE WHEN waits THEN '' ELSE p_outcome END,
      error = CASE WHEN waits THEN '' ELSE left(p_error, 4000) END,
      result = CASE WHEN waits THEN NULL ELSE p_result END,
      finished_at = CASE WHEN waits THEN NULL ELSE at END
    WHERE id = r.id;

  INSERT INTO outcome (lease_id, agent_id, agent_type, project, cycle_id, phase, story_type, tags,
      paths, attempt, outcome, waited_s, duration_s, memory_mb, cpu_cores, token_budget,
      peak_memory_mb, cpu_seconds, tokens_in, tokens_out, cost_usd, ended_at)
    VALUES (l.id, l.agent_id, l.agent_type, l.project, l.cycle_id, l.phase, r.story_type, r.tags,
      r.paths, l.attempt, p_outcome, l.waited_s, extract(epoch FROM at - l.acquired_at), l.memory_mb,
      l.cpu_cores, l.token_budget, l.peak_memory_mb, l.cpu_seconds, l.tokens_in, l.tokens_out,
      l.cost_usd, at);
  INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, actor, detail)
    VALUES ('lease.' || p_to, l.agent_type, a.agent_id, l.project, l.request_id, l.id, p_actor,
      jsonb_build_object('cycle_id', l.cycle_id, 'phase', l.phase, 'outcome', p_outcome,
        'error', left(p_error, 200), 'waits_again', waits, 'fencing_token', l.fencing_token));

  -- Who may have become servable: this pool, and every pool where a waiter wants a freed key.
  pools := ARRAY[l.agent_type];
  IF freed IS NOT NULL THEN
    SELECT array_agg(agent_type) INTO pools FROM (
      SELECT l.agent_type UNION
      SELECT q.agent_type FROM request q WHERE q.status = 'waiting' AND q.lock_keys && freed) x;
  END IF;
  IF was <> 'parked' THEN handed_over := hand_over_1(l.agent_id, t); END IF;
END $$
