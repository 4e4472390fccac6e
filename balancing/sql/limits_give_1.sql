-- limits_give_1: what leases had reserved is free again under these limits. Never waits: when all
-- shards are locked, it becomes a new one, which the next limits_lock_1 folds in.
CREATE FUNCTION limits_give_1(
  limits resource_limit[], p_memory bigint, p_cpu numeric, p_tokens bigint, p_disk bigint,
  p_mbps float8
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  l resource_limit;
BEGIN
  IF limits IS NULL THEN RETURN; END IF;
  FOREACH l IN ARRAY limits LOOP
    CONTINUE WHEN (p_memory = 0 OR l.memory_mb IS NULL) AND (p_cpu = 0 OR l.cpu_cores IS NULL)
      AND (p_tokens = 0 OR l.token_budget IS NULL) AND (p_disk = 0 OR l.disk_space_mb IS NULL)
      AND (p_mbps = 0 OR l.network_bandwidth_mbps IS NULL);
    UPDATE limit_shard s SET memory_mb = s.memory_mb + p_memory,
        cpu_cores = s.cpu_cores + p_cpu, token_budget = s.token_budget + p_tokens,
        disk_space_mb = s.disk_space_mb + p_disk,
        network_bandwidth_mbps = s.network_bandwidth_mbps + p_mbps
      WHERE s.id = (
        SELECT f.id FROM limit_shard f WHERE f.resource_limit_id = l.id
          ORDER BY (f.id % 64) # (pg_backend_pid() % 64) LIMIT 1
          FOR NO KEY UPDATE SKIP LOCKED);
    IF NOT FOUND THEN
      INSERT INTO limit_shard (resource_limit_id, memory_mb, cpu_cores, token_budget,
          disk_space_mb, network_bandwidth_mbps)
        VALUES (l.id, CASE WHEN l.memory_mb IS NOT NULL THEN p_memory END,
          CASE WHEN l.cpu_cores IS NOT NULL THEN p_cpu END,
          CASE WHEN l.token_budget IS NOT NULL THEN p_tokens END,
          CASE WHEN l.disk_space_mb IS NOT NULL THEN p_disk END,
          CASE WHEN l.network_bandwidth_mbps IS NOT NULL THEN p_mbps END);
    END IF;
  END LOOP;
END $$
