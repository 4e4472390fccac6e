-- outcomes_fold_1: take outcomes older than some days into the days' sums, and delete them, at most
-- p_batch of them; returns how many. One statement, so that nothing counts twice or is lost.
CREATE FUNCTION outcomes_fold_1(p_days float8, p_batch int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  n int;
BEGIN
  WITH gone AS (
    DELETE FROM outcome t WHERE t.lease_id IN (
      SELECT o.lease_id FROM pool p CROSS JOIN LATERAL (
        SELECT x.lease_id FROM outcome x WHERE x.agent_type = p.agent_type
          AND x.ended_at < now() - make_interval(secs => p_days * 86400)
        ORDER BY x.ended_at DESC LIMIT p_batch) o)
      RETURNING t.*),
  kept AS (
    INSERT INTO outcome_day AS d (day, agent_type, agent_id, story_type, leases, successes, log_s,
        log_s_squares, duration_s, waited_s, match, efficiency, tokens, cost_usd)
      SELECT (o.ended_at AT TIME ZONE 'UTC')::date, o.agent_type, o.agent_id, o.story_type, count(*),
          sum(t.successes), sum(t.log_s), sum(t.log_s ^ 2), sum(t.duration_s), sum(t.waited_s),
          sum(t.match), sum(t.efficiency), sum(t.tokens), sum(o.cost_usd)
        FROM gone o LEFT JOIN agent a ON a.id = o.agent_id,
          LATERAL lesson_1(ROW(o.*)::outcome, a.capabilities) t
        WHERE o.outcome <> 'cancelled'
        GROUP BY 1, 2, 3, 4
      ON CONFLICT (day, agent_type, agent_id, story_type) DO UPDATE SET
        leases = d.leases + excluded.leases, successes = d.successes + excluded.successes,
        log_s = d.log_s + excluded.log_s, log_s_squares = d.log_s_squares + excluded.log_s_squares,
        duration_s = d.duration_s + excluded.duration_s, waited_s = d.waited_s + excluded.waited_s,
        match = d.match + excluded.match, efficiency = d.efficiency + excluded.efficiency,
        tokens = d.tokens + excluded.tokens, cost_usd = d.cost_usd + excluded.cost_usd)
  SELECT count(*) INTO n FROM gone;
  RETURN n;
END $$
