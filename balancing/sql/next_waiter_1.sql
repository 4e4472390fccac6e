-- next_waiter_1: the waiting request of these shapes whose turn it is: the highest priority, then the
-- project with the least use of the pool, then the earliest. Locks nothing. Left out: those that
-- back off or are overdue, whose lock keys are held, p_skip, p_blocked ('shape/project', refused by
-- a limit just now), and, with p_agent, those bound to another agent.
CREATE FUNCTION next_waiter_1(
  p_type text, p_shapes bigint[], p_agent uuid, p_skip uuid[], p_blocked text[]
) RETURNS uuid LANGUAGE plpgsql STABLE AS $$
DECLARE
  now_at timestamptz := clock_timestamp();
  level smallint;
  found_id uuid;
BEGIN
  SELECT q.priority INTO level FROM request q
    WHERE q.agent_type = p_type AND q.status = 'waiting' ORDER BY q.priority DESC LIMIT 1;
  WHILE level IS NOT NULL LOOP
    SELECT w.id INTO found_id FROM share s CROSS JOIN LATERAL (
        SELECT x.id, x.number FROM unnest(p_shapes) k (shape) CROSS JOIN LATERAL (
          SELECT q.id, q.number FROM request q
            WHERE q.agent_type = p_type AND q.status = 'waiting' AND q.shape = k.shape
              AND q.project = s.project AND q.priority = level
              AND (q.not_before IS NULL OR q.not_before <= now_at) AND q.expires_at > now_at
              AND (q.lock_keys = '{}'
                OR NOT EXISTS (SELECT FROM lock_key h WHERE h.key = ANY (q.lock_keys)))
              AND q.id <> ALL (p_skip)
              AND (p_blocked = '{}' OR k.shape || '/' || s.project <> ALL (p_blocked))
              AND (p_agent IS NULL OR q.affinity <> 'hard'
                OR coalesce(bound_to_1(q), p_agent) = p_agent)
            ORDER BY q.number LIMIT 1) x
          ORDER BY x.number LIMIT 1) w
      WHERE s.agent_type = p_type ORDER BY s.log_usage LIMIT 1;
    IF found_id IS NOT NULL THEN RETURN found_id; END IF;
    SELECT q.priority INTO level FROM request q
      WHERE q.agent_type = p_type AND q.status = 'waiting' AND q.priority < level
      ORDER BY q.priority DESC LIMIT 1;
  END LOOP;
  RETURN NULL;
END $$
