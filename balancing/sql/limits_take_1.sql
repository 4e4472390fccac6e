-- limits_take_1: reserve these amounts under every limit, or under none. Takes one shard a limit,
-- SKIP LOCKED, and never waits: false may mean that what is free is spread too thin or just locked;
-- limits_lock_1 first makes the answer exact. Amounts below zero give back; that is never refused
-- because something is short or kept.
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
    IF greatest(p_memory, p_cpu, p_tokens, p_disk, p_mbps) <= 0
      OR ((l.reserved_for IS NULL OR l.reserved_for = p_request) AND (NOT l.is_overdrawn
        -- While more is missing, what came back during limits_lock_1 must not be taken again.
        OR (p_exact AND NOT EXISTS (SELECT FROM limit_shard o
          WHERE o.resource_limit_id = l.id
            AND (o.memory_mb < 0 AND p_memory > 0 OR o.cpu_cores < 0 AND p_cpu > 0
              OR o.token_budget < 0 AND p_tokens > 0 OR o.disk_space_mb < 0 AND p_disk > 0
              OR o.network_bandwidth_mbps < 0 AND p_mbps > 0)))))
    THEN
      UPDATE limit_shard s SET memory_mb = s.memory_mb - p_memory,
          cpu_cores = s.cpu_cores - p_cpu, token_budget = s.token_budget - p_tokens,
          disk_space_mb = s.disk_space_mb - p_disk,
          network_bandwidth_mbps = s.network_bandwidth_mbps - p_mbps
        WHERE s.id = (
          SELECT f.id FROM limit_shard f
            WHERE f.resource_limit_id = l.id
              AND (p_memory <= 0 OR coalesce(f.memory_mb >= p_memory, true))
              AND (p_cpu <= 0 OR coalesce(f.cpu_cores >= p_cpu, true))
              AND (p_tokens <= 0 OR coalesce(f.token_budget >= p_tokens, true))
              AND (p_disk <= 0 OR coalesce(f.disk_space_mb >= p_disk, true))
              AND (p_mbps <= 0 OR coalesce(f.network_bandwidth_mbps >= p_mbps, true))
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
