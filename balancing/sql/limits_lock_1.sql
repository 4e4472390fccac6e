-- limits_lock_1: make this transaction the only one that takes from these limits, and bring all
-- that is free under each into one shard, so that limits_take_1 answers exactly. Waits; so it must
-- be the first thing that a transaction locks (after a serve lock). limits_spread_1 undoes it.
CREATE FUNCTION limits_lock_1(limits resource_limit[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  l resource_limit;
BEGIN
  FOREACH l IN ARRAY limits LOOP
    PERFORM pg_advisory_xact_lock(hashtextextended('limit:' || l.id, 0));
    WITH gone AS (DELETE FROM limit_shard WHERE resource_limit_id = l.id RETURNING *)
    INSERT INTO limit_shard (resource_limit_id, memory_mb, cpu_cores, token_budget, disk_space_mb,
        network_bandwidth_mbps)
      SELECT l.id, sum(memory_mb), sum(cpu_cores), sum(token_budget), sum(disk_space_mb),
          sum(network_bandwidth_mbps) FROM gone HAVING count(*) > 0;
  END LOOP;
END $$
