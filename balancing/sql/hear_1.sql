-- hear_1: note that agents live, many at once: one entry an agent in each array. p_credentials: the
-- one it speaks with, null: it has been checked already. p_ages: seconds since it was sent. Rows of
-- liveness are locked in id order, so that flushes of several processes never deadlock; the agents
-- are only read. Returned are the entries (n, from 1) that need more than this: code ok with a status
-- that asks for something, unauthenticated (its credential is good no more), or lease_lost (a newer
-- incarnation has registered); of the last two nothing has been noted. Planned each time, with the
-- arrays' lengths: a plan for any length joins ten thousand with ten thousand, one by one.
CREATE FUNCTION hear_1(
  p_agents uuid[], p_incarnations int[], p_credentials uuid[], p_ages float8[]
) RETURNS TABLE (n int, code text, status text, reason text) LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY WITH said AS (
    SELECT s.*, s.credential_id IS NULL OR EXISTS (SELECT FROM credential c
        WHERE c.id = s.credential_id AND c.revoked_at IS NULL
          AND (c.expires_at IS NULL OR c.expires_at > now())) AS trusted
      FROM unnest(p_agents, p_incarnations, p_credentials, p_ages)
        WITH ORDINALITY s (agent_id, incarnation, credential_id, age_s, n)),
  mine AS (
    SELECT v.agent_id, s.age_s FROM said s
      JOIN liveness v ON v.agent_id = s.agent_id AND v.incarnation = s.incarnation
      WHERE s.trusted ORDER BY v.agent_id FOR NO KEY UPDATE OF v),
  alive AS (
    UPDATE liveness v SET last_heartbeat_at =
        greatest(v.last_heartbeat_at, now() - make_interval(secs => m.age_s))
      FROM mine m WHERE v.agent_id = m.agent_id RETURNING v.agent_id, v.incarnation)
  SELECT s.n::int, CASE WHEN NOT s.trusted THEN 'unauthenticated'
      WHEN x.agent_id IS NULL THEN 'lease_lost' ELSE 'ok' END, a.status::text, a.status_reason
    FROM said s JOIN agent a ON a.id = s.agent_id
      LEFT JOIN alive x ON x.agent_id = s.agent_id AND x.incarnation = s.incarnation
    WHERE x.agent_id IS NULL OR a.status NOT IN ('busy', 'idle', 'standby');
END $$
