-- track_records_1: take up what the outcomes since the last time say: records of the agents
-- concerned and of their pools over p_days days, per story type, and each pool's mean service time
-- over its newest 200 leases. Cancelled work says nothing. Returns how many records were written.
CREATE FUNCTION track_records_1(p_days int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  since timestamptz := (SELECT max(updated_at) - interval '1 minute' FROM track_record);
  n int;
BEGIN
  WITH changed AS (
    SELECT DISTINCT o.agent_type, o.agent_id FROM pool p JOIN outcome o USING (agent_type)
      WHERE o.ended_at > coalesce(since, '-infinity')),
  mine AS (
    SELECT o.agent_type, o.agent_id, o.story_type, o.outcome, o.duration_s,
        0.4 * least(1, o.peak_memory_mb / nullif(o.memory_mb, 0))
        + 0.4 * least(1, coalesce(
            o.cpu_seconds / nullif(o.duration_s * o.cpu_cores::float8, 0), 0))
        + 0.2 * least(1, coalesce(
            (o.tokens_in + o.tokens_out)::float8 / nullif(o.token_budget, 0), 0)) AS efficiency
      FROM outcome o
      WHERE o.agent_type IN (SELECT agent_type FROM changed) AND o.outcome <> 'cancelled'
        AND o.ended_at > now() - make_interval(days => p_days))
  INSERT INTO track_record (agent_type, agent_id, story_type, leases, successes, duration_s,
      efficiency, updated_at)
    SELECT m.agent_type, m.agent_id, m.story_type, count(*),
        count(*) FILTER (WHERE m.outcome = 'success'), sum(m.duration_s),
        sum(coalesce(m.efficiency, 0)), clock_timestamp()
      FROM mine m
      GROUP BY GROUPING SETS (
        (m.agent_type, m.agent_id, m.story_type), (m.agent_type, m.story_type))
      HAVING m.agent_id IS NULL OR (m.agent_type, m.agent_id) IN (TABLE changed)
    ON CONFLICT (agent_type, agent_id, story_type) DO UPDATE SET leases = excluded.leases,
      successes = excluded.successes, duration_s = excluded.duration_s,
      efficiency = excluded.efficiency, updated_at = excluded.updated_at;
  GET DIAGNOSTICS n = ROW_COUNT;
  UPDATE pool p SET mean_service_s = x.mean FROM (
      SELECT q.agent_type, (SELECT avg(o.duration_s) FROM (
          SELECT duration_s FROM outcome WHERE agent_type = q.agent_type AND outcome <> 'cancelled'
            ORDER BY ended_at DESC LIMIT 200) o) AS mean FROM pool q) x
    WHERE p.agent_type = x.agent_type AND x.mean IS NOT NULL
      AND abs(x.mean - p.mean_service_s) > 0.01 * p.mean_service_s;
  RETURN n;
END $$
