-- fits_1: can this agent serve this request with what it has free now? Status, health and slots
-- are asked in each query itself, so that the planner sees the partial index agent_placeable; but
-- that an agent on probation takes one lease at a time is asked here.
CREATE FUNCTION fits_1(a agent, r request) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT a.memory_mb - a.used_memory_mb >= greatest(r.min_memory_mb, r.memory_mb::bigint * 8 / 10)
     AND a.token_budget - a.used_token_budget >= r.token_budget
     AND a.disk_space_mb - a.used_disk_space_mb >= r.disk_space_mb
     AND a.security_level >= r.security_level
     AND a.tools @> r.special_tools
     AND a.cpu_cores - a.used_cpu_cores >= greatest(r.min_cpu_cores, trunc(r.cpu_cores * 0.8, 3))
     AND r.isolation_level <= ANY (a.isolation_levels)
     AND a.capabilities @> r.capabilities
     AND a.labels @> r.labels
     AND a.agent_id <> ALL (r.avoid_agents)
     AND (a.health <> 'probation' OR a.load = 0)
     AND (a.reserved_for IS NULL OR a.reserved_for = r.id)
     AND (r.rules = '[]' OR rules_hold_1(a.labels, a.capabilities, r.rules))
$$
