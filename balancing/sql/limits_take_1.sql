-- limits_take_1: reserve these amounts under every limit, or under none. Takes one shard a limit,
-- SKIP LOCKED, and never waits: false may mean that what is free is spread too thin or just locked;
-- limits_lock_1 first makes the answer exact.
CREATE FUNCTION limits_take_1(
  limits resource_limit[], p_request uuid, p_exact boolean,
  p_memory bigint, p_cpu numeric, p_tokens bigint, p_disk bigint, p_mbps float8
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  l resource_limit;
  taken bigint[] := '{}';
  one bigint;
BEGIN
  FOREACH l IN ARRAY limits LOOP
    one := NULL;
    IF (l.reserved_for IS NULL OR l.reserved_for = p_request) AND (p_exact OR NOT l.is_overdrawn)
    THEN
      UPDATE limit_shard s SET memory_mb = s.memory_mb - p_memory,
          cpu_cores = s.cpu_cores - p_cpu, token_budget = s.token_budget - p_tokens,
          disk_space_mb = s.disk_space_mb - p_disk,
          network_bandwidth_mbps = s.network_bandwidth_mbps - p_mbps
        WHERE s.id = (
          SELECT f.id FROM limit_shard f
            WHERE f.resource_limit_id = l.id
              AND coalesce(f.memory_mb >= p_memory, true)
              AND coalesce(f.cpu_cores >= p_cpu, true)
              AND coalesce(f.token_budget >= p_tokens, true)
              AND coalesce(f.disk_space_mb >= p_disk, true)
              AND coalesce(f.network_bandwidth_mbps >= p_mbps, true)
            -- Each connection begins elsewhere.
            ORDER BY (f.id % 64) # (pg_backend_pid() % 64) LIMIT 1
            FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING s.id INTO one;
    END IF;
    IF one IS NULL THEN
      UPDATE limit_shard s SET memory_mb = s.memory_mb + p_memory,
          cpu_cores = s.cpu_cores + p_cpu, token_budget = s.token_budget + p_tokens,
          disk_space_mb = s.disk_space_mb + p_disk,
          network_bandwidth_mbps = s.network_bandwidth_mbps + p_mbps
        WHERE s.id = ANY (taken);
      RETURN false;
    END IF;
    taken := taken || one;
  END LOOP;
  RETURN true;
END $$
