-- free_slot_1: what a lease held of its agent and of the limits is free again. Locks the agent;
-- returns its row. A drained agent that shall go retires with its last lease, parked ones too.
CREATE FUNCTION free_slot_1(l lease) RETURNS agent LANGUAGE plpgsql AS $$
DECLARE
  a agent;
  p policy_1;
BEGIN
  UPDATE agent SET load = load - 1,
      status = CASE
        WHEN load > 1 THEN status
        WHEN status = 'busy' THEN 'idle'
        ELSE status END,
      used_memory_mb = used_memory_mb - l.memory_mb,
      used_cpu_cores = used_cpu_cores - l.cpu_cores,
      used_token_budget = used_token_budget - l.token_budget,
      used_disk_space_mb = used_disk_space_mb - l.disk_space_mb
    WHERE id = l.agent_id RETURNING * INTO a;
  IF a.status = 'draining' AND a.load = 0 AND a.retire_when_drained THEN
    UPDATE agent SET status = 'retired', generation = generation + 1
      WHERE id = a.id AND NOT EXISTS (
        SELECT FROM lease x WHERE x.agent_id = a.id AND x.status = 'parked')
      RETURNING status INTO a.status;
    a.status := coalesce(a.status, 'draining');
  END IF;
  IF EXISTS (SELECT FROM resource_limit) THEN
    p := policy_of_1(l.agent_type, l.project);
    IF p.limits IS NOT NULL THEN
      PERFORM limits_give_1(p.limits, l.memory_mb, l.cpu_cores, l.token_budget, l.disk_space_mb,
        l.network_bandwidth_mbps);
    END IF;
  END IF;
  RETURN a;
END $$
