-- grants_1: what acquire_1 does, its results as lists in the order of the requests, for callers that
-- have leases to end in the same transaction. mine: agents that the caller has locked, changed and not
-- written yet; they are written here.
-- What a statement costs is mostly its beginning and end. So which requests can be served at all, and
-- the agents that come into question, is looked up for all of them at once; then each is decided by
-- itself, in order, since what is granted to one is taken for those after it; and what was granted is
-- written by four statements for all.
CREATE FUNCTION grants_1(
  p_usual jsonb, p_requests jsonb, p_queue boolean, p_exact boolean, t timing_1, mine agent[],
  OUT codes text[], OUT ids uuid[], OUT ls lease[], OUT names text[], OUT endpoints text[]
) LANGUAGE plpgsql AS $$
DECLARE
  usual request;
  rs request[] := '{}';
  held uuid[] := '{}';
  r request;
  a agent;
  l lease;
  c record;
  g record;
  p policy_1;
  -- What all requests may reserve, taken at once where they have the same limits: a limit's row is
  -- written twice, not once a request. What is left goes back; where this does not fit, each takes.
  ahead amounts_1;
  takes_ahead boolean;
  code text;
  key text;
  limited boolean;
  by_project boolean;
  policies policy_1[] := '{}';
  known text[] := '{}';
  policy_of int[] := '{}';
  place int;
  -- Requests of one shape in one pool are of a kind: the first of each kind, its key, the kind of each
  -- request, and the kinds that some capability class could ever serve.
  kinds request[] := '{}';
  keys text[] := '{}';
  kind_of int[] := '{}';
  kind int;
  able int[];
  -- For those that go by least_loaded alone agents are looked up together, once for each kind: the
  -- kinds, the pool of each such request, and its kind.
  looks int[] := '{}';
  asked text[] := '{}';
  look_of int[] := '{}';
  look int;
  -- What near_1 has found. Lists of their own: out of a record, each call would copy them.
  near_looks int[];
  near_ids uuid[];
  near_names text[];
  near_loads int[];
  near_generalities int[];
  nobody boolean;
  has_warm boolean := false;
  warm warmth_1;
  warms warmth_1[];
  warm_of uuid[] := '{}';
  -- Who was given something since near_1 has looked, and the least load that they have now.
  given uuid[] := '{}';
  given_load int := 32767;
  passed uuid[];
  -- Granted and not written yet.
  new_requests request[] := '{}';
  new_leases lease[] := '{}';
  new_names text[] := '{}';
BEGIN
  PERFORM FROM resource_limit LIMIT 1;  -- the table's lock first, see policy_of_1
  SELECT count(*) > 0, coalesce(bool_or(x.level = 'project'), false) INTO limited, by_project
    FROM resource_limit x;
  IF cardinality(mine) > 0 THEN held := ARRAY(SELECT m.id FROM unnest(mine) m); END IF;
  codes := '{}';
  -- The usual row and the others by one expression: it looks up once what a column is made by.
  FOR i IN 0..jsonb_array_length(p_requests) LOOP
    r := jsonb_populate_record(usual, CASE i WHEN 0 THEN p_usual ELSE p_requests -> (i - 1) END);
    IF i = 0 THEN
      usual := r;
      CONTINUE;
    END IF;
    ids[i] := r.id;
    -- A policy is its pool's; with limits on projects it is the project's, too.
    key := CASE WHEN by_project THEN r.agent_type || '/' || r.project ELSE r.agent_type END;
    place := array_position(known, key);
    IF place IS NULL THEN
      place := cardinality(known) + 1;
      policies[place] := policy_in_1(r.agent_type, r.project, limited);
      known[place] := key;
    END IF;
    policy_of[i] := place;
    p := policies[place];
    r.number := nextval('request_number_seq');
    r.memory_mb := greatest(r.memory_mb, p.least_memory_mb);
    r.min_memory_mb := greatest(r.min_memory_mb, p.least_memory_mb);
    r.cpu_cores := greatest(r.cpu_cores, p.least_cpu_cores);
    r.min_cpu_cores := greatest(r.min_cpu_cores, p.least_cpu_cores);
    r.shape := shape_1(r);
    r.created_at := clock_timestamp();
    r.queued_at := r.created_at;
    r.expires_at := r.created_at + make_interval(secs => r.ttl_s);
    key := concat(r.agent_type, '/', r.shape);
    kind := array_position(keys, key);
    IF kind IS NULL THEN
      kind := cardinality(keys) + 1;
      keys[kind] := key;
      kinds[kind] := r;
    END IF;
    kind_of[i] := kind;
    IF r.affinity = 'none' AND r.preferred_agent = ''
        AND coalesce(nullif(r.strategy, ''), p.strategy) = 'least_loaded' THEN
      IF kind <> ALL (looks) THEN looks := looks || kind; END IF;
      look_of[i] := kind;
      asked := asked || r.agent_type::text;
    END IF;
    has_warm := has_warm OR r.affinity = 'soft';
    rs[i] := r;
  END LOOP;
  able := able_among_1(kinds);
  IF cardinality(able) < cardinality(kinds) THEN
    looks := ARRAY(SELECT n FROM unnest(looks) n WHERE n = ANY (able));
  END IF;
  IF looks <> '{}' THEN
    SELECT n.looks, n.ids, n.names, n.loads, n.generalities
      INTO near_looks, near_ids, near_names, near_loads, near_generalities
      FROM near_1(kinds, looks, asked, mine, held) n;
  END IF;
  IF has_warm AND cardinality(rs) > 1 THEN
    warms := warm_many_1(rs);
    warm_of := ARRAY(SELECT w.request FROM unnest(warms) w);
  END IF;

  -- Asked last, and apart: what it reads is a statement.
  takes_ahead := limited AND NOT p_exact AND cardinality(rs) > 1
    AND policies[1].limits IS NOT NULL;
  IF takes_ahead THEN
    takes_ahead := policies[1].limits = ALL (SELECT x.limits FROM unnest(policies) x);
  END IF;
  IF takes_ahead THEN
    -- To the thousandth, as shards keep it: what they rounded would be lost or won on its way back.
    SELECT sum(x.memory_mb::bigint * 3 / 2), sum(trunc(x.cpu_cores * 1.5, 3)),
        sum(x.token_budget)::bigint, sum(x.disk_space_mb)::bigint, 10 * count(*)
      INTO ahead FROM unnest(rs) x;
    IF NOT limits_take_1(policies[1].limits, NULL, false, ahead.memory_mb, ahead.cpu_cores,
        ahead.token_budget, ahead.disk_space_mb, ahead.network_bandwidth_mbps) THEN
      ahead := NULL;
    END IF;
  END IF;

  FOR i IN 1..cardinality(rs) LOOP
    r := rs[i];
    p := policies[policy_of[i]];
    IF p IS NULL OR p.strategy IS NULL THEN
      codes[i] := 'unknown_type';
      CONTINUE;
    END IF;
    l := NULL;
    a := NULL;
    IF p_exact AND p.limits IS NOT NULL THEN PERFORM limits_lock_1(p.limits); END IF;
    code := CASE WHEN p_queue THEN 'waiting' ELSE 'exhausted' END;
    kind := kind_of[i];
    IF kind = ANY (able) AND within_1(r, p) AND (r.lock_keys = '{}' OR keys_free_1(r.lock_keys)) THEN
      passed := given;
      look := look_of[i];
      WHILE look IS NOT NULL AND a.id IS NULL LOOP
        c := nearest_1(look, near_looks, near_ids, near_names, near_loads, near_generalities,
          passed, given_load);
        EXIT WHEN c.id IS NULL;
        place := array_position(held, c.id);
        IF place IS NULL THEN
          SELECT * INTO a FROM agent x
            WHERE x.id = c.id AND x.status IN ('busy', 'idle')
              AND x.health IN ('good', 'probation', 'unknown')
              AND x.load < x.max_concurrent AND fits_1(x, r)
            FOR NO KEY UPDATE SKIP LOCKED;
          passed := passed || c.id;  -- locked by somebody else, perhaps: then the next one
        ELSE
          a := mine[place];
        END IF;
      END LOOP;
      -- Who found nobody then finds nobody now: since the look agents were only given something.
      nobody := look IS NOT NULL;
      IF nobody THEN nobody := near_looks IS NULL OR look <> ALL (near_looks); END IF;
      IF a.id IS NULL AND NOT nobody THEN
        warm := NULL;
        IF r.affinity <> 'none' THEN
          IF EXISTS (SELECT FROM unnest(new_leases) o
              WHERE o.project = r.project AND o.agent_type = r.agent_type) THEN
            -- Its agent may be the one that somebody before it in this list was just given.
            PERFORM store_granted_1(new_requests, new_leases, new_names);
            new_requests := '{}';
            new_leases := '{}';
            new_names := '{}';
            warm_of := '{}';
          END IF;
          place := array_position(warm_of, r.id);
          IF place IS NOT NULL THEN warm := warms[place]; END IF;
        END IF;
        IF cardinality(held) > 0 AND (r.preferred_agent <> '' OR r.affinity = 'hard'
            OR coalesce(nullif(r.strategy, ''), p.strategy) IN ('best_of_k', 'bin_pack')) THEN
          PERFORM agents_write_1(mine);
          mine := '{}';
          held := '{}';
        END IF;
        c := pick_1(r, p, mine, held, warm.agents, warm.warmth);
        a := c.chosen;
      END IF;
      IF a.id IS NOT NULL THEN
        g := grant_1(r, a, p, c.decision, p_exact, t, new_leases, ahead);
        l := g.l;
        ahead := g.ahead;
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
          place := coalesce(array_position(held, a.id), cardinality(held) + 1);
          held[place] := a.id;
          a := taken_1(a, l);
          mine[place] := a;
          given := given || a.id;
          given_load := least(given_load, a.load);
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
      code := store_waiting_1(r, p, p_queue, a.id IS NULL, kind = ANY (able));
    END IF;
    codes[i] := code;
    ls[i] := l;
  END LOOP;
  IF ahead IS NOT NULL THEN
    PERFORM limits_give_1(policies[1].limits, ahead.memory_mb, ahead.cpu_cores, ahead.token_budget,
      ahead.disk_space_mb, ahead.network_bandwidth_mbps);
  END IF;
  IF cardinality(held) > 0 THEN PERFORM agents_write_1(mine); END IF;
  IF cardinality(new_leases) > 0 THEN
    PERFORM store_granted_1(new_requests, new_leases, new_names);
  END IF;
END $$
