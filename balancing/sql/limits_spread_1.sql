-- limits_spread_1: after limits_lock_1 and its grants, spread what is left under each limit over so
-- many shards (64 at most) that each still holds two asks of this size; overdrawn: one shard only.
CREATE FUNCTION limits_spread_1(
  limits resource_limit[], p_memory bigint, p_cpu numeric, p_tokens bigint, p_disk bigint,
  p_mbps float8
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  l resource_limit;
  s limit_shard;
  shards bigint;
  n bigint;
  overdrawn boolean;
BEGIN
  FOREACH l IN ARRAY limits LOOP
    -- More than one: others gave back meanwhile (limits_give_1).
    WITH gone AS (DELETE FROM limit_shard WHERE resource_limit_id = l.id RETURNING *)
    SELECT count(*), sum(memory_mb), sum(cpu_cores), sum(token_budget), sum(disk_space_mb),
        sum(network_bandwidth_mbps)
      INTO shards, s.memory_mb, s.cpu_cores, s.token_budget, s.disk_space_mb,
        s.network_bandwidth_mbps
      FROM gone;
    CONTINUE WHEN shards = 0;
    n := floor(least(64, s.memory_mb / nullif(2 * p_memory, 0),
      s.cpu_cores / nullif(2 * p_cpu, 0), s.token_budget / nullif(2 * p_tokens, 0),
      s.disk_space_mb / nullif(2 * p_disk, 0),
      (s.network_bandwidth_mbps / nullif(2 * p_mbps, 0))::numeric));
    overdrawn := least(s.memory_mb, s.cpu_cores, s.token_budget, s.disk_space_mb,
      s.network_bandwidth_mbps::numeric) < 0;
    n := greatest(1, CASE WHEN overdrawn THEN 1 ELSE n END);
    INSERT INTO limit_shard (resource_limit_id, memory_mb, cpu_cores, token_budget, disk_space_mb,
        network_bandwidth_mbps)
      SELECT l.id,
          -- The first takes what does not divide.
          s.memory_mb / n + CASE i WHEN 1 THEN s.memory_mb % n ELSE 0 END,
          CASE i WHEN 1 THEN s.cpu_cores - (n - 1) * trunc(s.cpu_cores / n, 3)
            ELSE trunc(s.cpu_cores / n, 3) END,
          s.token_budget / n + CASE i WHEN 1 THEN s.token_budget % n ELSE 0 END,
          s.disk_space_mb / n + CASE i WHEN 1 THEN s.disk_space_mb % n ELSE 0 END,
          CASE i WHEN 1
            THEN s.network_bandwidth_mbps - (n - 1) * floor(s.network_bandwidth_mbps / n)
            ELSE floor(s.network_bandwidth_mbps / n) END
        FROM generate_series(1, n) i;
    IF overdrawn <> l.is_overdrawn THEN
      UPDATE resource_limit SET is_overdrawn = overdrawn WHERE id = l.id;
    END IF;
  END LOOP;
END $$
