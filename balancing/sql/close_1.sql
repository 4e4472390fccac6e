-- close_1: end leases in one transaction, each by compare-and-set on (id, token, live status). Whoever
-- changes the row frees slot, amounts, limits and lock keys, decides what becomes of the request,
-- leaves the outcome row, and hands the freed slot over; everybody else gets code 'lease_lost' and
-- has changed nothing. One statement a table serves the whole list.
-- p_closes: a list of {lease, token, to, outcome, error, result, usage, retry, request_to, overdue_s,
-- actor, asker, agent}. token null: the server itself ends it. overdue_s: only if it expired that
-- long ago (time only permits the reaper; the row decides). retry: the request waits again, with
-- back-off, until its attempts are used up; request_to: its status when it does not. asker, agent:
-- only a lease that this principal asked for, or of this agent ('not_found'). One row each, in order;
-- pools: the types whose queue must be looked at after the commit.
-- Locks in this order: leases by id, agents by id, requests (the caller must hold none of the later).
CREATE FUNCTION close_1(p_closes jsonb, t timing_1)
RETURNS TABLE (
  code text, l lease, agent_name text, endpoint text, handed_over uuid, pools text[]
) LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  at timestamptz := clock_timestamp();
  ids uuid[] := ARRAY(SELECT (x->>'lease')::uuid FROM jsonb_array_elements(p_closes) x);
  codes text[];
  es ending_1[];
  ls lease[];
  held lease[];
  agents agent[];
  waited_for text[];
  freed text[];
  concerned text[];
  e ending_1;
  place int := 0;
BEGIN
  IF cardinality(ids) > 1 THEN
    PERFORM FROM lease x WHERE x.id = ANY (ids) ORDER BY x.id FOR NO KEY UPDATE;
  END IF;
  WITH wish AS (
      SELECT * FROM ROWS FROM (
        jsonb_to_recordset(p_closes) AS (lease uuid, token bigint, "to" text, outcome text,
          error text, result jsonb, usage jsonb, retry boolean, request_to text,
          overdue_s float8, actor text, asker text, agent uuid)) WITH ORDINALITY
        w (lease, token, "to", outcome, error, result, usage, retry, request_to, overdue_s, actor,
          asker, agent, n)),
    live AS (
      SELECT x.* FROM lease x WHERE x.id = ANY (ids)
        AND x.status IN ('active', 'offered', 'parked') FOR NO KEY UPDATE),
    judged AS (
      SELECT w.n, w.lease, CASE
          WHEN x.id IS NULL OR x.fencing_token <> w.token
            OR x.expires_at >= at - make_interval(secs => w.overdue_s) THEN 'lease_lost'
          WHEN x.agent_id <> w.agent OR q.requested_by <> w.asker THEN 'not_found'
          ELSE 'ok' END AS code,
        ROW(w.n, x.id, w."to", w.outcome, w.error, nullif(w.result, 'null'), w.usage, w.retry,
          w.request_to, w.actor, x.status = 'parked', w.retry AND q.attempts < t.max_attempts,
          q.attempts, q.story_type, q.tags, q.paths, q.lock_keys <> '{}')::ending_1 AS ending
        FROM wish w LEFT JOIN live x ON x.id = w.lease
          LEFT JOIN request q ON q.id = x.request_id),
    -- Of several that may end a lease the first one does; who may not is no rival.
    settled AS (
      SELECT j.n, j.ending, CASE
          WHEN row_number() OVER (PARTITION BY j.lease, j.code ORDER BY j.n) > 1 AND j.code = 'ok'
          THEN 'lease_lost' ELSE j.code END AS code
        FROM judged j)
    SELECT array_agg(j.code ORDER BY j.n),
        array_agg(j.ending ORDER BY j.n) FILTER (WHERE j.code = 'ok')
      INTO codes, es FROM settled j;
  IF es IS NULL THEN
    RETURN QUERY SELECT c, NULL::lease, NULL, NULL, NULL::uuid, '{}'::text[] FROM unnest(codes) c;
    RETURN;
  END IF;

  WITH ended AS (
    UPDATE lease x SET status = e."to", outcome = e.outcome, error = left(e.error, 4000),
        released_at = at,
        peak_memory_mb = greatest(x.peak_memory_mb,
          coalesce((e.usage->>'memory_mb')::float8, 0)),
        cpu_seconds = coalesce((e.usage->>'cpu_seconds')::float8, x.cpu_seconds),
        measured_disk_space_mb =
          coalesce((e.usage->>'disk_space_mb')::float8, x.measured_disk_space_mb),
        tokens_in = coalesce((e.usage->>'tokens_in')::bigint, x.tokens_in),
        tokens_out = coalesce((e.usage->>'tokens_out')::bigint, x.tokens_out),
        cost_usd = coalesce((e.usage->>'cost_usd')::numeric, x.cost_usd)
      FROM unnest(es) e WHERE x.id = e.lease_id
      RETURNING e.n, x AS row)
    SELECT array_agg(d.row ORDER BY d.n) INTO ls FROM ended d;
  held := ARRAY(SELECT ls[e.ordinality] FROM unnest(es) WITH ORDINALITY e WHERE NOT e.was_parked);
  IF held <> '{}' THEN
    agents := free_slots_1(held, ARRAY(SELECT e.actor FROM unnest(es) e WHERE NOT e.was_parked));
  END IF;
  IF cardinality(held) < cardinality(ls) THEN
    agents := ARRAY(SELECT a FROM agent a WHERE a.id IN (SELECT (u).agent_id FROM unnest(ls) u));
  END IF;
  IF EXISTS (SELECT FROM unnest(es) e WHERE e.has_keys) THEN
    WITH gone AS (DELETE FROM lock_key k WHERE k.lease_id = ANY (ids) AND k.lease_id IN (
        SELECT (u).id FROM unnest(ls) u) RETURNING k.key)
      SELECT array_agg(g.key) INTO freed FROM gone g;
  END IF;

  UPDATE request q SET
      status = CASE WHEN e.waits THEN 'waiting' WHEN e.retry THEN 'failed' ELSE e.request_to END,
      reason = CASE WHEN e.waits THEN 'backing off: ' || e.error
        WHEN e.retry THEN 'attempts used up: ' || e.error ELSE left(e.error, 400) END,
      not_before = CASE WHEN e.waits THEN at + make_interval(
        secs => t.backoff_s * 2 ^ (e.attempts - 1) * (0.75 + random() / 2)) END,
      queued_at = CASE WHEN e.waits THEN at ELSE q.queued_at END,
      expires_at = CASE WHEN e.waits THEN at + make_interval(secs => q.ttl_s)
        ELSE q.expires_at END,
      outcome = CASE WHEN e.waits THEN '' ELSE e.outcome END,
      error = CASE WHEN e.waits THEN '' ELSE left(e.error, 4000) END,
      result = CASE WHEN e.waits THEN NULL ELSE e.result END,
      finished_at = CASE WHEN e.waits THEN NULL ELSE at END
    FROM unnest(es) WITH ORDINALITY e WHERE q.id = (ls[e.ordinality]).request_id;
  PERFORM share_enter_1(x.agent_type, x.project, o.share_half_life_s) FROM (
      SELECT DISTINCT (ls[e.ordinality]).agent_type, (ls[e.ordinality]).project
        FROM unnest(es) WITH ORDINALITY e WHERE e.waits) x JOIN pool o USING (agent_type);

  INSERT INTO outcome (lease_id, agent_id, agent_type, project, cycle_id, phase, story_type, tags,
      paths, attempt, outcome, waited_s, duration_s, memory_mb, cpu_cores, token_budget,
      peak_memory_mb, cpu_seconds, tokens_in, tokens_out, cost_usd, ended_at)
    SELECT x.id, x.agent_id, x.agent_type, x.project, x.cycle_id, x.phase, e.story_type, e.tags,
        e.paths, x.attempt, x.outcome, x.waited_s, extract(epoch FROM at - x.acquired_at),
        x.memory_mb, x.cpu_cores, x.token_budget, x.peak_memory_mb, x.cpu_seconds, x.tokens_in,
        x.tokens_out, x.cost_usd, at
      FROM unnest(ls) WITH ORDINALITY x JOIN unnest(es) WITH ORDINALITY e USING (ordinality);
  INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, actor, detail)
    SELECT 'lease.' || x.status, x.agent_type, a.agent_id, x.project, x.request_id, x.id, e.actor,
        jsonb_build_object('cycle_id', x.cycle_id, 'phase', x.phase, 'outcome', x.outcome,
          'error', left(e.error, 200), 'waits_again', e.waits, 'fencing_token', x.fencing_token,
          'charge_s', extract(epoch FROM at - x.acquired_at) - x.charged_s)
      FROM unnest(ls) WITH ORDINALITY x JOIN unnest(es) WITH ORDINALITY e USING (ordinality)
        JOIN unnest(agents) a ON a.id = x.agent_id
      ORDER BY ordinality;

  -- Who may have become servable: these pools, every pool where a waiter wants a freed key, and
  -- under an installation's or a project's limit all that wait.
  concerned := ARRAY(SELECT DISTINCT (u).agent_type FROM unnest(ls) u);
  IF freed IS NOT NULL THEN
    concerned := concerned || ARRAY(SELECT DISTINCT q.agent_type FROM request q
      WHERE q.status = 'waiting' AND q.lock_keys && freed AND q.agent_type <> ALL (concerned));
  END IF;
  IF EXISTS (SELECT FROM resource_limit x WHERE x.level <> 'pool') THEN
    concerned := concerned || ARRAY(SELECT o.agent_type FROM pool o
      WHERE o.agent_type <> ALL (concerned) AND EXISTS (SELECT FROM request q
        WHERE q.agent_type = o.agent_type AND q.status = 'waiting'));
  END IF;
  waited_for := ARRAY(SELECT k FROM unnest(concerned) k WHERE EXISTS (
    SELECT FROM request q WHERE q.agent_type = k AND q.status = 'waiting'));
  FOR n IN 1..cardinality(codes) LOOP
    code := codes[n];
    l := NULL;
    agent_name := NULL;
    endpoint := NULL;
    handed_over := NULL;
    pools := '{}';
    IF code = 'ok' THEN
      place := place + 1;
      e := es[place];
      l := ls[place];
      pools := concerned;
      SELECT a.agent_id, a.endpoint INTO agent_name, endpoint FROM unnest(agents) a
        WHERE a.id = l.agent_id;
      IF NOT e.was_parked AND l.agent_type = ANY (waited_for) THEN
        handed_over := hand_over_1(l.agent_type, l.agent_id, t);
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$
