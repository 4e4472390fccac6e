-- able_1: could an agent of this capability class ever serve the request, with nothing else to do?
-- What must be there is the caller's minimum, at least 0.8 of the ask (balancing/grants.py).
CREATE FUNCTION able_1(c capability_class, r request) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT c.tools @> r.special_tools
     AND c.memory_mb >= least_memory_1(r)
     AND c.token_budget >= r.token_budget
     AND c.disk_space_mb >= r.disk_space_mb
     AND c.security_level >= r.security_level
     AND c.cpu_cores >= least_cpu_1(r)
     AND r.isolation_level <= ANY (c.isolation_levels)
     AND c.capabilities @> r.capabilities
     AND c.labels @> r.labels
     AND (r.rules = '[]' OR rules_hold_1(c.labels, c.capabilities, r.rules))
$$
