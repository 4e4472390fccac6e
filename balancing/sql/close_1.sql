-- close_1: end a lease, by compare-and-set on (id, token, live status). Whoever changes the row
-- frees slot, amounts, limits and lock keys, decides what becomes of the request, leaves the outcome
-- row, and hands the freed slot over; everybody else gets code 'lease_lost' and has changed nothing.
-- p_token null: the server itself ends it. p_overdue_s not null: only if it expired that long ago
-- (time only permits the reaper; the row decides). p_retry: the request waits again, with back-off,
-- until its attempts are used up. p_request_to: the request's status when it does not wait again.
-- p_asker, p_agent: only a lease that this principal asked for, or of this agent ('not_found').
-- Locks in this order: lease, agent, request (the caller must hold none of the later ones).
CREATE FUNCTION close_1(
  p_lease uuid, p_token bigint, p_to text, p_outcome text, p_error text, p_result jsonb,
  p_usage jsonb, p_retry boolean, p_request_to text, p_overdue_s float8,
  t timing_1, p_actor text, p_asker text, p_agent uuid,
  OUT code text, OUT l lease, OUT agent_name text, OUT endpoint text, OUT handed_over uuid,
  OUT pools text[]
) LANGUAGE plpgsql AS $$
DECLARE
  at timestamptz := clock_timestamp();
  was record;
  a agent;
  p policy_1;
  freed text[];
  waits boolean;
  spent_s float8;
BEGIN
  code := 'lease_lost';
  pools := '{}';
  SELECT x.status, x.agent_id, q.requested_by, q.attempts, q.story_type, q.tags, q.paths,
      q.lock_keys INTO was
    FROM lease x JOIN request q ON q.id = x.request_id
    WHERE x.id = p_lease AND (p_token IS NULL OR x.fencing_token = p_token)
      AND x.status IN ('active', 'offered', 'parked')
      AND (p_overdue_s IS NULL OR x.expires_at < at - make_interval(secs => p_overdue_s))
    FOR NO KEY UPDATE OF x;
  IF NOT FOUND THEN RETURN; END IF;
  IF was.agent_id <> p_agent OR was.requested_by <> p_asker THEN
    code := 'not_found';
    RETURN;
  END IF;
  code := 'ok';

  UPDATE lease x SET status = p_to, outcome = p_outcome, error = left(p_error, 4000),
      released_at = at,
      peak_memory_mb = greatest(x.peak_memory_mb, coalesce((p_usage->>'memory_mb')::float8, 0)),
      cpu_seconds = coalesce((p_usage->>'cpu_seconds')::float8, x.cpu_seconds),
      measured_disk_space_mb =
        coalesce((p_usage->>'disk_space_mb')::float8, x.measured_disk_space_mb),
      tokens_in = coalesce((p_usage->>'tokens_in')::bigint, x.tokens_in),
      tokens_out = coalesce((p_usage->>'tokens_out')::bigint, x.tokens_out),
      cost_usd = coalesce((p_usage->>'cost_usd')::numeric, x.cost_usd)
    WHERE x.id = p_lease RETURNING * INTO l;
  spent_s := extract(epoch FROM at - l.acquired_at);

  IF was.status <> 'parked' THEN
    a := free_slot_1(l);
    IF a.status = 'retired' THEN
      INSERT INTO event (kind, agent_type, agent_id, actor, detail) VALUES
        ('agent.retired', a.agent_type, a.agent_id, p_actor, '{"reason": "drained"}');
    END IF;
  ELSE
    SELECT * INTO a FROM agent x WHERE x.id = l.agent_id;
  END IF;
  agent_name := a.agent_id;
  endpoint := a.endpoint;
  IF was.lock_keys <> '{}' THEN
    WITH gone AS (DELETE FROM lock_key WHERE lease_id = l.id RETURNING key)
      SELECT array_agg(key) INTO freed FROM gone;
  END IF;

  waits := p_retry AND was.attempts < t.max_attempts;
  UPDATE request SET
      status = CASE WHEN waits THEN 'waiting' WHEN p_retry THEN 'failed' ELSE p_request_to END,
      reason = CASE WHEN waits THEN 'backing off: ' || p_error
        WHEN p_retry THEN 'attempts used up: ' || p_error ELSE left(p_error, 400) END,
      not_before = CASE WHEN waits THEN at + make_interval(
        secs => t.backoff_s * 2 ^ (was.attempts - 1) * (0.75 + random() / 2)) END,
      queued_at = CASE WHEN waits THEN at ELSE queued_at END,
      expires_at = CASE WHEN waits THEN at + make_interval(secs => ttl_s) ELSE expires_at END,
      outcome = CASE WHEN waits THEN '' ELSE p_outcome END,
      error = CASE WHEN waits THEN '' ELSE left(p_error, 4000) END,
      result = CASE WHEN waits THEN NULL ELSE p_result END,
      finished_at = CASE WHEN waits THEN NULL ELSE at END
    WHERE id = l.request_id;
  IF waits THEN
    p := policy_of_1(l.agent_type, l.project);
    PERFORM share_enter_1(l.agent_type, l.project, p.share_half_life_s);
  END IF;

  INSERT INTO outcome (lease_id, agent_id, agent_type, project, cycle_id, phase, story_type, tags,
      paths, attempt, outcome, waited_s, duration_s, memory_mb, cpu_cores, token_budget,
      peak_memory_mb, cpu_seconds, tokens_in, tokens_out, cost_usd, ended_at)
    VALUES (l.id, l.agent_id, l.agent_type, l.project, l.cycle_id, l.phase, was.story_type, was.tags,
      was.paths, l.attempt, p_outcome, l.waited_s, spent_s, l.memory_mb,
      l.cpu_cores, l.token_budget, l.peak_memory_mb, l.cpu_seconds, l.tokens_in, l.tokens_out,
      l.cost_usd, at);
  INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, actor, detail)
    VALUES ('lease.' || p_to, l.agent_type, a.agent_id, l.project, l.request_id, l.id, p_actor,
      jsonb_build_object('cycle_id', l.cycle_id, 'phase', l.phase, 'outcome', p_outcome,
        'error', left(p_error, 200), 'waits_again', waits, 'fencing_token', l.fencing_token,
        'charge_s', spent_s - l.charged_s));

  -- Who may have become servable: this pool, every pool where a waiter wants a freed key, and
  -- under an installation's or a project's limit all that wait.
  pools := ARRAY[l.agent_type];
  IF freed IS NOT NULL THEN
    SELECT array_agg(x.agent_type) INTO pools FROM (
      SELECT l.agent_type UNION
      SELECT q.agent_type FROM request q WHERE q.status = 'waiting' AND q.lock_keys && freed) x;
  END IF;
  IF EXISTS (SELECT FROM resource_limit x WHERE x.level <> 'pool') THEN
    SELECT array_agg(x.agent_type) INTO pools FROM (
      SELECT unnest(pools) UNION
      SELECT o.agent_type FROM pool o WHERE EXISTS (SELECT FROM request q
        WHERE q.agent_type = o.agent_type AND q.status = 'waiting')) x (agent_type);
  END IF;
  IF was.status <> 'parked' THEN
    handed_over := hand_over_1(l.agent_type, l.agent_id, t);
  END IF;
END $$
