-- renew_many_1: renew leases by compare-and-set on (id, token, agent, incarnation, live), and note what
-- was reported of them. Rows are locked in id order, so that bulk renewals never deadlock. The new
-- expiry never moves back and never passes the hard end; an offer's does not move. age_s: seconds that
-- the message spent on its way here. p_said: a list of objects, one a lease; what is absent of the
-- report stays as it is. A lease that is not returned is not (any more) its agent's.
CREATE FUNCTION renew_many_1(p_said jsonb, p_ttl_s float8)
RETURNS TABLE (
  lease uuid, token bigint, status text, expires_at timestamptz, expires_in_s float8
) LANGUAGE sql AS $$
  WITH mine AS (
    SELECT s.* FROM jsonb_to_recordset(p_said) s (
        id uuid, token bigint, agent uuid, incarnation int, age_s float8, memory_mb float8,
        cpu_cores float8, cpu_seconds float8, disk_space_mb float8, tokens_in bigint,
        tokens_out bigint, cost_usd numeric, counter bigint, phase text, note text)
      JOIN lease l ON l.id = s.id AND l.fencing_token = s.token
      WHERE l.agent_id = s.agent AND l.incarnation = s.incarnation
        AND l.status IN ('active', 'offered', 'parked')
      ORDER BY l.id FOR NO KEY UPDATE OF l)
  UPDATE lease l SET
      expires_at = CASE WHEN l.status = 'offered' THEN l.expires_at ELSE
        least(l.hard_end_at, greatest(l.expires_at,
          clock_timestamp() + make_interval(secs => p_ttl_s - m.age_s))) END,
      measured_memory_mb = coalesce(m.memory_mb, l.measured_memory_mb),
      peak_memory_mb = greatest(l.peak_memory_mb, m.memory_mb),
      measured_cpu_cores = coalesce(m.cpu_cores, l.measured_cpu_cores),
      cpu_seconds = coalesce(m.cpu_seconds, l.cpu_seconds),
      measured_disk_space_mb = coalesce(m.disk_space_mb, l.measured_disk_space_mb),
      tokens_in = coalesce(m.tokens_in, l.tokens_in),
      tokens_out = coalesce(m.tokens_out, l.tokens_out),
      cost_usd = coalesce(m.cost_usd, l.cost_usd),
      progress_counter = coalesce(m.counter, l.progress_counter),
      progress_phase = coalesce(m.phase, l.progress_phase),
      progress_note = coalesce(m.note, l.progress_note),
      progress_at = CASE WHEN m.counter IS NULL THEN l.progress_at ELSE now() END
    FROM mine m WHERE l.id = m.id
    RETURNING l.id, l.fencing_token, l.status, l.expires_at,
      extract(epoch FROM l.expires_at - clock_timestamp())::float8
$$
