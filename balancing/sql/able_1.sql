-- able_1: could an agent of this capability class ever serve the request, with nothing else to do?
-- What must be there is the caller's minimum, at least 0.8 of the ask (balancing/grants.py).
CREATE FUNCTION able_1(c capability_class, r request) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT able_needs_1(c, least_memory_1(r), least_cpu_1(r), r.token_budget, r.disk_space_mb,
    r.security_level::smallint, r.isolation_level::smallint, r.special_tools, r.capabilities,
    r.labels, r.rules)
$$
