-- able_among_1: the places of those requests for which there is a capability class in which some agent
-- could ever serve them. Their needs are taken out of their rows once, not for each class. Classes are
-- asked in the order of their index, the largest first, up to the first that is able: not all, and none
-- whose agents are gone. (By a bitmap all of them would be read, and sorted.)
CREATE FUNCTION able_among_1(rs request[]) RETURNS int[] LANGUAGE plpgsql STABLE
SET enable_bitmapscan = off AS $$
BEGIN
  RETURN ARRAY(
    SELECT n.place FROM (SELECT i AS place, (rs[i]).agent_type, least_memory_1(rs[i]) AS memory,
          least_cpu_1(rs[i]) AS cpu, (rs[i]).token_budget, (rs[i]).disk_space_mb,
          (rs[i]).security_level::smallint, (rs[i]).isolation_level::smallint,
          (rs[i]).special_tools, (rs[i]).capabilities, (rs[i]).labels, (rs[i]).rules
        FROM generate_subscripts(rs, 1) i OFFSET 0) n
      WHERE (SELECT true FROM capability_class c
        WHERE c.agent_type = n.agent_type AND c.agents > 0 AND able_needs_1(c, n.memory, n.cpu,
          n.token_budget, n.disk_space_mb, n.security_level, n.isolation_level, n.special_tools,
          n.capabilities, n.labels, n.rules)
        ORDER BY c.agents DESC LIMIT 1));
END $$
