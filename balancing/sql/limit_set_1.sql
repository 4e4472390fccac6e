-- limit_set_1: create or change a limit (by level and name), and build its shards anew from the
-- leases that live. The table lock waits for every claim that has read the limits and holds back
-- those that come, for the moment of this transaction; so no lease escapes the count.
CREATE FUNCTION limit_set_1(p_limit jsonb) RETURNS resource_limit LANGUAGE plpgsql AS $$
DECLARE
  l resource_limit;
BEGIN
  LOCK TABLE resource_limit IN ACCESS EXCLUSIVE MODE;
  SELECT * INTO l FROM resource_limit
    WHERE level = p_limit->>'level' AND name = p_limit->>'name';
  l := jsonb_populate_record(l, p_limit);
  l.id := coalesce(l.id, gen_random_uuid());
  l.generation := coalesce(l.generation, 0) + 1;
  l.weight := coalesce(l.weight, 1);
  l.is_overdrawn := false;
  l.updated_at := clock_timestamp();
  DELETE FROM resource_limit WHERE id = l.id;
  DELETE FROM limit_shard WHERE resource_limit_id = l.id;
  INSERT INTO resource_limit SELECT l.*;
  IF coalesce(l.memory_mb, l.cpu_cores, l.token_budget, l.disk_space_mb, l.network_bandwidth_mbps)
      IS NOT NULL THEN
    INSERT INTO limit_shard (resource_limit_id, memory_mb, cpu_cores, token_budget, disk_space_mb,
        network_bandwidth_mbps)
      SELECT l.id, l.memory_mb - coalesce(sum(x.memory_mb), 0),
          l.cpu_cores - coalesce(sum(x.cpu_cores), 0),
          l.token_budget - coalesce(sum(x.token_budget), 0),
          l.disk_space_mb - coalesce(sum(x.disk_space_mb), 0),
          l.network_bandwidth_mbps - coalesce(sum(x.network_bandwidth_mbps), 0)
        FROM lease x WHERE x.status IN ('active', 'offered')
          AND (l.level = 'installation' OR (l.level = 'pool' AND x.agent_type = l.name)
            OR (l.level = 'project' AND x.project = l.name));
    PERFORM limits_spread_1(ARRAY[l], 1024, 1, 50000, 500, 10);
    SELECT * INTO l FROM resource_limit WHERE id = l.id;
  END IF;
  RETURN l;
END $$
