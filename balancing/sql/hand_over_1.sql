-- hand_over_1: give what just became free on this agent to the first waiting request that fits it.
-- Called inside the transaction that freed it; the caller may hold the agent's row lock already.
-- Locks the waiter SKIP LOCKED; never waits for another one. Returns the lease, or null.
CREATE FUNCTION hand_over_1(p_agent uuid, t timing_1) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  a agent;
  r request;
  g record;
BEGIN
  SELECT * INTO a FROM agent
    WHERE id = p_agent AND status IN ('busy', 'idle')
      AND health IN ('good', 'probation', 'unknown') AND load < max_concurrent
    FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN RETURN NULL; END IF;
  SELECT * INTO r FROM request w
    WHERE w.agent_type = a.agent_type AND w.status = 'waiting'
      AND (w.not_before IS NULL OR w.not_before <= clock_timestamp())
      AND w.expires_at > clock_timestamp()
      AND fits_1(a, w)
      AND (w.affinity <> 'hard' OR coalesce(sticky_1(w), a.id) = a.id)
      AND NOT EXISTS (SELECT FROM lock_key k WHERE k.key = ANY (w.lock_keys))
    ORDER BY w.priority DESC, w.number LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND OR NOT keys_free_1(r.lock_keys) THEN RETURN NULL; END IF;
  SELECT * INTO g FROM grant_1(r, a, 'queue', t);
  r := g.r;
  UPDATE request SET status = r.status, reason = r.reason, attempts = r.attempts,
      granted_at = r.granted_at, not_before = NULL WHERE id = r.id;
  RETURN (g.l).id;
END $$
