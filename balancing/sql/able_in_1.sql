-- able_in_1: is there a capability class in which some agent could ever serve this request? Its needs
-- are taken out of its row once, not for each class.
CREATE FUNCTION able_in_1(r request) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (
    SELECT FROM (SELECT r.agent_type, least_memory_1(r) AS memory, least_cpu_1(r) AS cpu,
          r.token_budget, r.disk_space_mb, r.security_level::smallint, r.isolation_level::smallint,
          r.special_tools, r.capabilities, r.labels, r.rules OFFSET 0) n
        JOIN capability_class c USING (agent_type)
      WHERE c.agents > 0 AND able_needs_1(c, n.memory, n.cpu, n.token_budget, n.disk_space_mb,
        n.security_level, n.isolation_level, n.special_tools, n.capabilities, n.labels, n.rules))
$$
