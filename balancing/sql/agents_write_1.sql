-- agents_write_1: write what leases have taken of agents and given back. The caller has held their
-- row locks since it read them, so what it has in memory is how they are.
-- LIMIT takes nothing away: of a list with it the planner expects one row, and goes from it to the
-- table, by key. Named twice: planned when there were few agents, the join alone reads all there are.
CREATE FUNCTION agents_write_1(changed agent[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE agent x SET load = m.load, status = m.status, used_memory_mb = m.used_memory_mb,
      used_cpu_cores = m.used_cpu_cores, used_token_budget = m.used_token_budget,
      used_disk_space_mb = m.used_disk_space_mb, last_token = m.last_token,
      reserved_for = m.reserved_for
    FROM (SELECT u.id, u.load, u.status, u.used_memory_mb, u.used_cpu_cores, u.used_token_budget,
        u.used_disk_space_mb, u.last_token, u.reserved_for
      FROM unnest(changed) u LIMIT cardinality(changed)) m
    WHERE x.id = m.id AND x.id = ANY (ARRAY(SELECT u.id FROM unnest(changed) u));
END $$
