-- hand_over_1: give what just became free on this agent to the waiting request whose turn it is
-- among those that it fits; an agent that is kept for a request is for that one only. Called inside
-- the transaction that freed it; the caller may hold the agent's row lock already. Never waits: a waiter that is locked is passed. Returns the lease.
CREATE FUNCTION hand_over_1(p_type text, p_agent uuid, t timing_1) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  a agent;
  r request;
  p policy_1;
  l lease;
  shapes bigint[];
  skip uuid[] := '{}';
  blocked text[] := '{}';
  next_id uuid;
BEGIN
  -- The common case first: nobody waits.
  IF NOT EXISTS (SELECT FROM request q WHERE q.agent_type = p_type AND q.status = 'waiting') THEN
    RETURN NULL;
  END IF;
  SELECT * INTO a FROM agent
    WHERE id = p_agent AND status IN ('busy', 'idle')
      AND health IN ('good', 'probation', 'unknown') AND load < max_concurrent
    FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN RETURN NULL; END IF;
  IF a.reserved_for IS NULL THEN
    shapes := waiting_shapes_1(a);
    IF shapes IS NULL THEN RETURN NULL; END IF;
  END IF;
  -- A few tries: the look after the commit sees to the rest.
  FOR i IN 1..5 LOOP
    next_id := CASE WHEN a.reserved_for IS NULL
      THEN next_waiter_1(a.agent_type, shapes, a.id, skip, blocked)
      WHEN i = 1 THEN a.reserved_for END;
    EXIT WHEN next_id IS NULL;
    SELECT * INTO r FROM request q
      WHERE q.id = next_id AND q.status = 'waiting' AND q.expires_at > clock_timestamp()
        AND (q.not_before IS NULL OR q.not_before <= clock_timestamp())
      FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND AND fits_1(a, r) AND keys_free_1(r.lock_keys) THEN
      p := policy_of_1(r.agent_type, r.project);
      IF within_1(r, p) THEN
        l := (grant_1(r, a, p, json_build_object('strategy', 'queue', 'tier', 'queue',
          'score', 1, 'parts', '{}'::json), false, t, '{}', NULL)).l;
        IF l.id IS NOT NULL THEN
          PERFORM agents_write_1(ARRAY[taken_1(a, l)]);
          PERFORM granted_from_queue_1(l, a.agent_id);
          RETURN l.id;
        END IF;
      END IF;
      blocked := blocked || (r.shape || '/' || r.project);
    END IF;
    skip := skip || next_id;
  END LOOP;
  RETURN NULL;
END $$
