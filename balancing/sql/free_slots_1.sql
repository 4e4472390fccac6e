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
  p policy_1;
BEGIN
  freed := ARRAY(SELECT x FROM agent x WHERE x.id IN (SELECT u.agent_id FROM unnest(ls) u)
    ORDER BY x.id FOR NO KEY UPDATE);
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
    FOREACH a IN ARRAY freed LOOP
      CONTINUE WHEN a.status <> 'draining' OR a.load > 0 OR NOT a.retire_when_drained;
      UPDATE agent SET status = 'retired', generation = generation + 1
        WHERE id = a.id AND NOT EXISTS (
          SELECT FROM lease x WHERE x.agent_id = a.id AND x.status = 'parked');
      CONTINUE WHEN NOT FOUND;
      INSERT INTO event (kind, agent_type, agent_id, actor, detail) VALUES
        ('agent.retired', a.agent_type, a.agent_id,
          (SELECT actors[u.ordinality] FROM unnest(ls) WITH ORDINALITY u
            WHERE u.agent_id = a.id ORDER BY u.ordinality DESC LIMIT 1),
          '{"reason": "drained"}');
    END LOOP;
  END IF;
  IF EXISTS (SELECT FROM resource_limit) THEN
    FOREACH l IN ARRAY ls LOOP
      p := policy_of_1(l.agent_type, l.project);
      IF p.limits IS NOT NULL THEN
        PERFORM limits_give_1(p.limits, l.memory_mb, l.cpu_cores, l.token_budget,
          l.disk_space_mb, l.network_bandwidth_mbps);
      END IF;
    END LOOP;
  END IF;
END $$
