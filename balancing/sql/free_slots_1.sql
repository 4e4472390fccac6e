-- free_slots_1: what leases held of their agents and of the limits is free again. Locks the agents,
-- in the order of their ids; freed: their rows as they are then. A drained agent that shall go retires
-- with its last lease, parked ones too; that is an event of whoever ended that lease. actors: of each
-- lease. unwritten: of the rows, those that are still the caller's to write (agents_write_1): none
-- with p_write.
CREATE FUNCTION free_slots_1(
  ls lease[], actors text[], p_write boolean, OUT freed agent[], OUT unwritten agent[]
) LANGUAGE plpgsql AS $$
DECLARE
  ids uuid[];
  drains boolean := false;
  place int;
  a agent;
  l lease;
BEGIN
  ids := ARRAY(SELECT u.agent_id FROM unnest(ls) u);
  freed := ARRAY(SELECT x FROM agent x WHERE x.id = ANY (ids) ORDER BY x.id FOR NO KEY UPDATE);
  ids := ARRAY(SELECT u.id FROM unnest(freed) u);
  FOREACH l IN ARRAY ls LOOP
    place := array_position(ids, l.agent_id);
    a := freed[place];
    a.load := a.load - 1;
    IF a.load = 0 AND a.status = 'busy' THEN a.status := 'idle'; END IF;
    a.used_memory_mb := a.used_memory_mb - l.memory_mb;
    a.used_cpu_cores := a.used_cpu_cores - l.cpu_cores;
    a.used_token_budget := a.used_token_budget - l.token_budget;
    a.used_disk_space_mb := a.used_disk_space_mb - l.disk_space_mb;
    drains := drains OR a.status = 'draining';
    freed[place] := a;
  END LOOP;
  unwritten := freed;
  IF p_write OR drains THEN
    PERFORM agents_write_1(freed);
    unwritten := '{}';
  END IF;

  IF drains THEN
    PERFORM retire_drained_1(ARRAY(SELECT u.agent_id FROM unnest(ls) u), actors);
  END IF;
  IF EXISTS (SELECT FROM resource_limit) THEN
    -- To each limit once, whatever ended under it (which limits those are: policy_of_1).
    PERFORM limits_give_1(ARRAY[y.w], y.memory_mb, y.cpu_cores, y.token_budget, y.disk_space_mb,
        y.mbps)
      FROM (SELECT w, sum(x.memory_mb)::bigint AS memory_mb, sum(x.cpu_cores) AS cpu_cores,
            sum(x.token_budget)::bigint AS token_budget,
            sum(x.disk_space_mb)::bigint AS disk_space_mb, sum(x.network_bandwidth_mbps) AS mbps
          FROM resource_limit w JOIN unnest(ls) x ON w.level = 'installation'
            OR (w.level = 'pool' AND w.name = x.agent_type)
            OR (w.level = 'project' AND w.name = x.project)
          WHERE coalesce(w.memory_mb, w.cpu_cores, w.token_budget, w.disk_space_mb,
            w.network_bandwidth_mbps) IS NOT NULL
          GROUP BY w.id ORDER BY w.id) y;
  END IF;
END $$
