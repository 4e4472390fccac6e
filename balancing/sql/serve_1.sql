-- serve_1: look at a pool's queue and grant what can be granted now, at most p_batch requests.
-- To be called in a transaction of its own after whatever published (a request, a freed slot).
-- Gate by plain reads; then one advisory lock a pool, so that one server at a time walks the queue
-- with a snapshot newer than every commit before it. Agents are SKIP LOCKED and never waited for:
-- if a fitting one was only locked, or the batch was full, `again` tells the caller to repeat;
-- `exact`, to repeat with p_exact, because a limit refused without being sure.
-- Those that reserve_1 keeps capacity for come first: they have been passed often enough.
CREATE FUNCTION serve_1(
  p_type text, p_batch int, p_exact boolean, t timing_1,
  OUT granted int, OUT again boolean, OUT exact boolean
) LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_material = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  shapes bigint[];
  skip uuid[] := '{}';
  blocked text[] := '{}';
  next_id uuid;
  kept uuid[];
  is_kept boolean;
  limits resource_limit[];
  r request;
  a agent;
  p policy_1;
  c record;
  l lease;
BEGIN
  granted := 0;
  again := false;
  exact := false;
  shapes := ARRAY(SELECT s.shape FROM serveable_shapes_1(ARRAY[p_type]) s);
  IF shapes = '{}' THEN RETURN; END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('serve:' || p_type, 0));
  IF p_exact THEN
    SELECT array_agg(x ORDER BY x.id) INTO limits FROM resource_limit x
      WHERE x.level <> 'pool' OR x.name = p_type;
    IF limits IS NOT NULL THEN PERFORM limits_lock_1(limits); END IF;
  END IF;
  shapes := ARRAY(SELECT s.shape FROM serveable_shapes_1(ARRAY[p_type]) s);
  kept := kept_waiters_1(p_type, shapes);
  WHILE shapes <> '{}' LOOP
    next_id := kept[1];
    is_kept := next_id IS NOT NULL;
    kept := kept[2:];
    IF NOT is_kept THEN next_id := next_waiter_1(p_type, shapes, NULL, skip, blocked); END IF;
    EXIT WHEN next_id IS NULL;
    IF granted >= p_batch THEN again := true; EXIT; END IF;
    -- Lock the waiter by itself: a locking cursor would hold all of the queue that it reads ahead.
    SELECT * INTO r FROM request q WHERE q.id = next_id AND q.status = 'waiting'
      FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN again := true; skip := skip || next_id; CONTINUE; END IF;
    IF NOT keys_free_1(r.lock_keys) THEN
      again := again OR NOT EXISTS (SELECT FROM lock_key k WHERE k.key = ANY (r.lock_keys));
      skip := skip || next_id;
      CONTINUE;
    END IF;
    p := policy_of_1(p_type, r.project);
    IF NOT within_1(r, p) THEN
      blocked := blocked || (r.shape || '/' || r.project);
      skip := skip || next_id;
      CONTINUE;
    END IF;
    c := pick_1(r, p, '{}', '{}', NULL, NULL);
    a := c.chosen;
    IF a.id IS NULL THEN
      -- Nobody for this one: either all were taken, or one was only locked by somebody else.
      IF EXISTS (
        SELECT FROM agent f
          WHERE f.agent_type = p_type AND f.status IN ('busy', 'idle')
            AND f.health IN ('good', 'probation', 'unknown') AND f.load < f.max_concurrent
            AND fits_1(f, r)
            AND (r.affinity <> 'hard' OR coalesce(bound_to_1(r), f.id) = f.id)
      ) THEN again := true; END IF;
      -- A kept agent fits one request only: that one's failure says nothing of its shape.
      IF NOT is_kept THEN shapes := array_remove(shapes, r.shape); END IF;
      skip := skip || next_id;
      CONTINUE;
    END IF;
    l := (grant_1(r, a, p, c.decision, p_exact, t, '{}', NULL)).l;
    IF l.id IS NULL THEN
      exact := NOT p_exact;
      -- The limits that are kept for one request only refuse another one of its shape.
      IF NOT is_kept THEN blocked := blocked || (r.shape || '/' || r.project); END IF;
      skip := skip || next_id;
      CONTINUE;
    END IF;
    PERFORM agents_write_1(ARRAY[taken_1(a, l)]);
    PERFORM granted_from_queue_1(l, a.agent_id);
    granted := granted + 1;
    -- The agent that was kept for it is anybody's now: whom it fits was not among these shapes.
    again := again OR coalesce(r.reserved_agent <> a.id, false);
  END LOOP;
  IF p_exact AND limits IS NOT NULL THEN
    PERFORM limits_spread_1(limits, coalesce(r.memory_mb, 1024), coalesce(r.cpu_cores, 1),
      coalesce(r.token_budget, 50000), coalesce(r.disk_space_mb, 500), 10);
  END IF;
END $$
