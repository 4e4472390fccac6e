-- free_slots_1: what leases held of their agents and of the limits is free again. Locks the agents,
-- in the order of their ids; returns their rows. A drained agent that shall go retires with its last
-- lease, parked ones too; that is an event of whoever ended that lease. actors: of each lease.
CREATE FUNCTION free_slots_1(ls lease[], actors text[]) RETURNS agent[] LANGUAGE plpgsql AS $$
DECLARE
  freed agent[];
  a agent;
  l lease;
  p policy_1;
BEGIN
  IF cardinality(ls) > 1 THEN
    PERFORM FROM agent x WHERE x.id IN (SELECT (u).agent_id FROM unnest(ls) u)
      ORDER BY x.id FOR NO KEY UPDATE;
  END IF;
  WITH gone AS (
    UPDATE agent x SET load = x.load - u.n,
        status = CASE WHEN x.load > u.n THEN x.status
          WHEN x.status = 'busy' THEN 'idle' ELSE x.status END,
        used_memory_mb = x.used_memory_mb - u.memory_mb,
        used_cpu_cores = x.used_cpu_cores - u.cpu_cores,
        used_token_budget = x.used_token_budget - u.token_budget,
        used_disk_space_mb = x.used_disk_space_mb - u.disk_space_mb
      FROM (SELECT k.agent_id, count(*) AS n, sum(k.memory_mb) AS memory_mb,
            sum(k.cpu_cores) AS cpu_cores, sum(k.token_budget) AS token_budget,
            sum(k.disk_space_mb) AS disk_space_mb
          FROM unnest(ls) k GROUP BY k.agent_id) u
      WHERE x.id = u.agent_id
      RETURNING x AS row)
    SELECT array_agg(row) INTO freed FROM gone;

  FOREACH a IN ARRAY freed LOOP
    IF a.status = 'draining' AND a.load = 0 AND a.retire_when_drained THEN
      UPDATE agent SET status = 'retired', generation = generation + 1
        WHERE id = a.id AND NOT EXISTS (
          SELECT FROM lease x WHERE x.agent_id = a.id AND x.status = 'parked');
      IF FOUND THEN
        INSERT INTO event (kind, agent_type, agent_id, actor, detail) VALUES
          ('agent.retired', a.agent_type, a.agent_id,
            (SELECT actors[u.ordinality] FROM unnest(ls) WITH ORDINALITY u
              WHERE u.agent_id = a.id ORDER BY u.ordinality DESC LIMIT 1),
            '{"reason": "drained"}');
      END IF;
    END IF;
  END LOOP;
  IF EXISTS (SELECT FROM resource_limit) THEN
    FOREACH l IN ARRAY ls LOOP
      p := policy_of_1(l.agent_type, l.project);
      IF p.limits IS NOT NULL THEN
        PERFORM limits_give_1(p.limits, l.memory_mb, l.cpu_cores, l.token_budget,
          l.disk_space_mb, l.network_bandwidth_mbps);
      END IF;
    END LOOP;
  END IF;
  RETURN freed;
END $$
