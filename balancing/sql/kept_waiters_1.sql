-- kept_waiters_1: the waiting requests of these shapes that an agent of the pool or a limit is kept
-- for (reserve_1), the earliest first. Plain reads.
CREATE FUNCTION kept_waiters_1(p_type text, p_shapes bigint[]) RETURNS uuid[] LANGUAGE sql STABLE AS $$
  SELECT coalesce(array_agg(q.id ORDER BY q.number), '{}') FROM request q
    WHERE q.id IN (
        SELECT a.reserved_for FROM agent a WHERE a.reserved_for IS NOT NULL AND a.agent_type = p_type
        UNION SELECT l.reserved_for FROM resource_limit l WHERE l.reserved_for IS NOT NULL)
      AND q.agent_type = p_type AND q.status = 'waiting' AND q.shape = ANY (p_shapes)
      AND (q.not_before IS NULL OR q.not_before <= clock_timestamp())
      AND q.expires_at > clock_timestamp()
$$
