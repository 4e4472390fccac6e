-- serve_1: look at a pool's queue and grant what can be granted now, at most p_batch requests.
-- To be called in a transaction of its own after whatever published (a request, a freed slot).
-- Gate by plain reads; then one advisory lock a pool, so that one server at a time walks the queue
-- with a snapshot newer than every commit before it. Agents are SKIP LOCKED and never waited for:
-- if a fitting one was only locked, or the batch was full, `again` tells the caller to repeat.
CREATE FUNCTION serve_1(
  p_type text, p_batch int, t timing_1, OUT granted int, OUT again boolean
) LANGUAGE plpgsql AS $$
DECLARE
  shapes bigint[];
  w request;
  r request;
  a agent;
  p record;
  g record;
BEGIN
  granted := 0;
  again := false;
  shapes := serveable_shapes_1(p_type);
  IF shapes IS NULL THEN RETURN; END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('serve:' || p_type, 0));
  shapes := serveable_shapes_1(p_type);
  FOR w IN
    SELECT * FROM request q
      WHERE q.agent_type = p_type AND q.status = 'waiting' AND q.shape = ANY (shapes)
        AND (q.not_before IS NULL OR q.not_before <= clock_timestamp())
        AND q.expires_at > clock_timestamp()
        AND NOT EXISTS (SELECT FROM lock_key k WHERE k.key = ANY (q.lock_keys))
      ORDER BY q.priority DESC, q.number
  LOOP
    CONTINUE WHEN w.shape <> ALL (shapes);
    IF granted >= p_batch THEN again := true; EXIT; END IF;
    -- Lock the waiter by itself: a locking cursor would hold all of the queue that it reads ahead.
    SELECT * INTO r FROM request q WHERE q.id = w.id AND q.status = 'waiting'
      FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN again := true; CONTINUE; END IF;
    IF NOT keys_free_1(r.lock_keys) THEN
      again := again OR NOT EXISTS (SELECT FROM lock_key k WHERE k.key = ANY (r.lock_keys));
      CONTINUE;
    END IF;
    SELECT * INTO p FROM pick_1(r);
    a := p.chosen;
    IF a.id IS NULL THEN
      -- Nobody for this one: either all were taken, or one was only locked by somebody else.
      IF EXISTS (
        SELECT FROM agent f
          WHERE f.agent_type = p_type AND f.status IN ('busy', 'idle')
            AND f.health IN ('good', 'probation', 'unknown') AND f.load < f.max_concurrent
            AND fits_1(f, r)
            AND (r.affinity <> 'hard' OR coalesce(sticky_1(r), f.id) = f.id)
      ) THEN again := true; END IF;
      shapes := array_remove(shapes, r.shape);
      EXIT WHEN shapes = '{}';
      CONTINUE;
    END IF;
    SELECT * INTO g FROM grant_1(r, a, p.tier, t);
    r := g.r;
    UPDATE request SET status = r.status, reason = r.reason, attempts = r.attempts,
        granted_at = r.granted_at, not_before = NULL WHERE id = r.id;
    granted := granted + 1;
  END LOOP;
END $$
