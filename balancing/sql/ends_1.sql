-- ends_1: what close_1 does, its results as lists in the order of p_closes, for callers that ask for
-- agents in the same transaction. concerned: the types whose queue must be looked at after the commit.
-- unwritten: agents that are locked, changed, and the caller's to write (agents_write_1); none with
-- p_write.
CREATE FUNCTION ends_1(
  p_closes jsonb, t timing_1, p_write boolean,
  OUT codes text[], OUT ls lease[], OUT names text[], OUT endpoints text[], OUT handed uuid[],
  OUT concerned text[], OUT unwritten agent[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  at timestamptz := clock_timestamp();
  wanted uuid[] := ARRAY(SELECT (x->>'lease')::uuid FROM jsonb_array_elements(p_closes) x);
  -- Not written where it is used: else a plan goes through the index of all that live.
  live_ones text[] := '{active, offered, parked}';
  es ending_1[];
  before lease[];
  request_ids uuid[];
  after lease[];
  any_parked boolean;
  any_keys boolean;
  any_waits boolean;
  agents agent[];
  agent_ids uuid[];
  who text[] := '{}';
  waited_for text[];
  takers uuid[] := '{}';
  freed text[];
  a agent;
  e ending_1;
  l lease;
  place int := 0;
BEGIN
  WITH wish AS (
      SELECT * FROM ROWS FROM (
        jsonb_to_recordset(p_closes) AS (lease uuid, token bigint, "to" text, outcome text,
          error text, result jsonb, usage jsonb, retry boolean, request_to text,
          overdue_s float8, actor text, asker text, agent uuid)) WITH ORDINALITY
        w (lease, token, "to", outcome, error, result, usage, retry, request_to, overdue_s, actor,
          asker, agent, n)),
    live AS (
      SELECT x AS row, x.id, x.fencing_token, x.expires_at, x.agent_id, x.agent_type, x.request_id,
          x.status = 'parked' AS is_parked
        FROM lease x WHERE x.id = ANY (wanted) AND x.status = ANY (live_ones)
        ORDER BY x.id FOR NO KEY UPDATE),
    judged AS (
      SELECT w.n, w.lease, x.row, x.request_id, x.agent_type, x.is_parked,
        q.lock_keys <> '{}' AS has_keys,
        coalesce(w.retry AND q.attempts < t.max_attempts, false) AS waits,
        CASE
          WHEN x.id IS NULL OR x.fencing_token <> w.token
            OR x.expires_at >= at - make_interval(secs => w.overdue_s) THEN 'lease_lost'
          WHEN x.agent_id <> w.agent OR q.requested_by <> w.asker THEN 'not_found'
          ELSE 'ok' END AS code,
        ROW(w.n, x.id, w."to", w.outcome, coalesce(w.error, ''), nullif(w.result, 'null'), w.usage,
          w.retry, w.request_to, w.actor, x.is_parked,
          coalesce(w.retry AND q.attempts < t.max_attempts, false), q.attempts, q.story_type,
          q.tags, q.paths)::ending_1 AS ending
        FROM wish w LEFT JOIN live x ON x.id = w.lease
          LEFT JOIN request q ON q.id = x.request_id),
    -- Of several that may end a lease the first one does; who may not is no rival.
    settled AS (
      SELECT j.*, CASE
          WHEN row_number() OVER (PARTITION BY j.lease, j.code ORDER BY j.n) > 1 AND j.code = 'ok'
          THEN 'lease_lost' ELSE j.code END AS verdict
        FROM judged j)
    SELECT array_agg(j.verdict ORDER BY j.n),
        array_agg(j.ending ORDER BY j.n) FILTER (WHERE j.verdict = 'ok'),
        array_agg(j.row ORDER BY j.n) FILTER (WHERE j.verdict = 'ok'),
        array_agg(j.request_id) FILTER (WHERE j.verdict = 'ok'),
        coalesce(array_agg(DISTINCT j.agent_type) FILTER (WHERE j.verdict = 'ok'), '{}'),
        coalesce(bool_or(j.is_parked) FILTER (WHERE j.verdict = 'ok'), false),
        coalesce(bool_or(j.has_keys) FILTER (WHERE j.verdict = 'ok'), false),
        coalesce(bool_or(j.waits) FILTER (WHERE j.verdict = 'ok'), false)
      INTO codes, es, before, request_ids, concerned, any_parked, any_keys, any_waits
      FROM settled j;
  unwritten := '{}';
  IF es IS NULL THEN RETURN; END IF;

  IF any_parked THEN
    agents := ARRAY(SELECT x FROM agent x WHERE x.id = ANY (ARRAY(
      SELECT u.agent_id FROM unnest(before) u WHERE u.status = 'parked')));
    IF EXISTS (SELECT FROM unnest(before) u WHERE u.status <> 'parked') THEN
      SELECT f.freed || agents, f.unwritten INTO agents, unwritten FROM free_slots_1(
        ARRAY(SELECT before[u.ordinality] FROM unnest(es) WITH ORDINALITY u WHERE NOT u.was_parked),
        ARRAY(SELECT u.actor FROM unnest(es) u WHERE NOT u.was_parked), p_write) f;
    END IF;
  ELSE
    SELECT f.freed, f.unwritten INTO agents, unwritten
      FROM free_slots_1(before, ARRAY(SELECT u.actor FROM unnest(es) u), p_write) f;
  END IF;
  agent_ids := ARRAY(SELECT u.id FROM unnest(agents) u);
  FOR n IN 1..cardinality(codes) LOOP
    CONTINUE WHEN codes[n] <> 'ok';
    place := place + 1;
    l := before[place];
    a := agents[array_position(agent_ids, l.agent_id)];
    who[place] := a.agent_id;
    names[n] := a.agent_id;
    endpoints[n] := a.endpoint;
  END LOOP;

  IF any_keys THEN
    WITH gone AS (DELETE FROM lock_key k WHERE k.lease_id = ANY (ARRAY(
        SELECT u.id FROM unnest(before) u)) RETURNING k.key)
      SELECT array_agg(g.key) INTO freed FROM gone g;
  END IF;
  WITH ended AS (
      UPDATE lease x SET status = e."to", outcome = e.outcome, error = left(e.error, 4000),
          released_at = at, parked_at = NULL,
          parked_s = coalesce(
            coalesce(x.parked_s, 0) + extract(epoch FROM at - x.parked_at)::float8, x.parked_s),
          peak_memory_mb = greatest(x.peak_memory_mb,
            coalesce((e.usage->>'memory_mb')::float8, 0)),
          cpu_seconds = coalesce((e.usage->>'cpu_seconds')::float8, x.cpu_seconds),
          measured_disk_space_mb =
            coalesce((e.usage->>'disk_space_mb')::float8, x.measured_disk_space_mb),
          tokens_in = coalesce((e.usage->>'tokens_in')::bigint, x.tokens_in),
          tokens_out = coalesce((e.usage->>'tokens_out')::bigint, x.tokens_out),
          cost_usd = coalesce((e.usage->>'cost_usd')::numeric, x.cost_usd)
        FROM (SELECT * FROM unnest(es) WITH ORDINALITY LIMIT cardinality(es)) e  -- as agents_write_1
        WHERE x.id = e.lease_id AND x.id = ANY (wanted)
        -- What is not needed is left out: each of the four below makes room for every column.
        RETURNING x AS row, x.id, x.status, x.agent_id, x.agent_type, x.project, x.cycle_id,
          x.phase, x.request_id, x.attempt, x.fencing_token, x.acquired_at, x.parked_s, x.waited_s,
          x.charged_s, x.outcome, x.error, x.memory_mb, x.cpu_cores, x.token_budget,
          x.peak_memory_mb, x.cpu_seconds, x.tokens_in, x.tokens_out, x.cost_usd,
          e.ordinality AS n, e.waits, e.retry, e.request_to, e.result, e.attempts,
          e.error AS said, e.actor, e.story_type, e.tags, e.paths),
    asked AS (
      UPDATE request q SET
          status = CASE WHEN d.waits THEN 'waiting' WHEN d.retry THEN 'failed'
            ELSE d.request_to END,
          reason = CASE WHEN d.waits THEN 'backing off: ' || d.said
            WHEN d.retry THEN 'attempts used up: ' || d.said ELSE left(d.said, 400) END,
          reason_code = CASE WHEN d.waits THEN 'backing_off' ELSE '' END,
          not_before = CASE WHEN d.waits THEN at + make_interval(
            secs => t.backoff_s * 2 ^ (d.attempts - 1) * (0.75 + random() / 2)) END,
          queued_at = CASE WHEN d.waits THEN at ELSE q.queued_at END,
          expires_at = CASE WHEN d.waits THEN at + make_interval(secs => q.ttl_s)
            ELSE q.expires_at END,
          outcome = CASE WHEN d.waits THEN '' ELSE d.outcome END,
          error = CASE WHEN d.waits THEN '' ELSE d.error END,
          result = CASE WHEN d.waits THEN NULL ELSE d.result END,
          finished_at = CASE WHEN d.waits THEN NULL ELSE at END
        FROM ended d WHERE q.id = d.request_id AND q.id = ANY (request_ids)),
    learnt AS (
      INSERT INTO outcome (lease_id, agent_id, agent_type, project, cycle_id, phase, story_type,
          tags, paths, attempt, outcome, waited_s, duration_s, memory_mb, cpu_cores, token_budget,
          peak_memory_mb, cpu_seconds, tokens_in, tokens_out, cost_usd, ended_at)
        SELECT d.id, d.agent_id, d.agent_type, d.project, d.cycle_id, d.phase, d.story_type,
            d.tags, d.paths, d.attempt, d.outcome, d.waited_s,
            extract(epoch FROM at - d.acquired_at) - coalesce(d.parked_s, 0), d.memory_mb,
            d.cpu_cores, d.token_budget,
            d.peak_memory_mb, d.cpu_seconds, d.tokens_in, d.tokens_out, d.cost_usd, at
          FROM ended d),
    told AS (
      INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, actor, detail)
        SELECT 'lease.' || d.status, d.agent_type, who[d.n], d.project, d.request_id, d.id, d.actor,
            jsonb_build_object('cycle_id', d.cycle_id, 'phase', d.phase, 'outcome', d.outcome,
              'error', left(d.said, 200), 'waits_again', d.waits,
              'fencing_token', d.fencing_token,
              'charge_s', extract(epoch FROM at - d.acquired_at) - coalesce(d.parked_s, 0)
                - d.charged_s)
          FROM ended d ORDER BY d.n)
    SELECT array_agg(d.row ORDER BY d.n) INTO after FROM ended d;
  IF any_parked THEN
    PERFORM retire_drained_1(ARRAY(SELECT u.agent_id FROM unnest(before) u),
      ARRAY(SELECT u.actor FROM unnest(es) u));
  END IF;
  IF any_waits THEN
    PERFORM share_enter_1(x.agent_type, x.project, o.share_half_life_s) FROM (
        SELECT DISTINCT u.agent_type, u.project FROM unnest(after) WITH ORDINALITY u
          JOIN unnest(es) WITH ORDINALITY e USING (ordinality) WHERE e.waits) x
      JOIN pool o USING (agent_type);
  END IF;

  -- Who may have become servable: these pools, every pool where a waiter wants a freed key, and
  -- under an installation's or a project's limit all that wait.
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
  IF cardinality(waited_for) > 0 THEN
    takers := takers_1(agents, waited_for, 200);  -- the look after the commit sees to the rest
    IF takers <> '{}' AND cardinality(unwritten) > 0 THEN
      PERFORM agents_write_1(unwritten);
      unwritten := '{}';
    END IF;
  END IF;
  place := 0;
  FOR n IN 1..cardinality(codes) LOOP
    CONTINUE WHEN codes[n] <> 'ok';
    place := place + 1;
    l := after[place];
    ls[n] := l;
    IF l.agent_id = ANY (takers) THEN
      e := es[place];
      IF NOT e.was_parked THEN handed[n] := hand_over_1(l.agent_type, l.agent_id, t); END IF;
    END IF;
  END LOOP;
END $$
