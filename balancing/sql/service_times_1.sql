-- service_times_1: each pool's mean service time over its newest 200 leases that were not cancelled.
CREATE FUNCTION service_times_1() RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  n int;
BEGIN
  UPDATE pool p SET mean_service_s = x.mean FROM (
      SELECT q.agent_type, (SELECT avg(o.duration_s) FROM (
          SELECT duration_s FROM outcome WHERE agent_type = q.agent_type AND outcome <> 'cancelled'
            ORDER BY ended_at DESC LIMIT 200) o) AS mean FROM pool q) x
    WHERE p.agent_type = x.agent_type AND x.mean IS NOT NULL
      AND abs(x.mean - p.mean_service_s) > 0.01 * p.mean_service_s;
  GET DIAGNOSTICS n = ROW_COUNT;
  RETURN n;
END $$
