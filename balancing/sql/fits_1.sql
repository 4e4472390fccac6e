-- fits_1: can this agent serve this request with what it has free now? Status, health and slots
-- are asked in each query itself, so that the planner sees the partial index agent_placeable; but
-- that an agent on probation takes one lease at a time is asked here.
CREATE FUNCTION fits_1(a agent, r request) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT fits_needs_1(a, r.id, least_memory_1(r), least_cpu_1(r), r.token_budget, r.disk_space_mb,
    r.security_level::smallint, r.isolation_level::smallint, r.special_tools, r.capabilities,
    r.labels, r.avoid_agents, r.rules)
$$
