-- renew_1: renew leases of one agent incarnation by compare-and-set on (id, token, incarnation,
-- live). Rows are locked in id order, so that bulk renewals never deadlock. The new expiry never
-- moves back and never passes the hard end. p_age_s: seconds the message spent on its way here.
-- A lease that is not returned is not (any more) the caller's.
CREATE FUNCTION renew_1(
  p_agent uuid, p_incarnation int, p_leases uuid[], p_tokens bigint[], p_ttl_s float8, p_age_s float8
) RETURNS SETOF lease LANGUAGE sql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
  WITH mine AS (
    SELECT l.id FROM lease l
      JOIN unnest(p_leases, p_tokens) w (id, token) ON w.id = l.id AND w.token = l.fencing_token
      WHERE l.agent_id = p_agent AND l.incarnation = p_incarnation
        AND l.status IN ('active', 'offered', 'parked')
      ORDER BY l.id FOR NO KEY UPDATE OF l)
  UPDATE lease l SET expires_at = CASE WHEN l.status = 'offered' THEN l.expires_at ELSE
      least(l.hard_end_at, greatest(l.expires_at,
        clock_timestamp() + make_interval(secs => p_ttl_s - p_age_s))) END
    FROM mine WHERE l.id = mine.id
    RETURNING l.*
$$
