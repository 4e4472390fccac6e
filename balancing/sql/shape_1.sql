-- shape_1: a hash of all that decides whether an agent fits a request.
-- Waiting requests of equal shape are judged once. Locks nothing.
CREATE FUNCTION shape_1(r request) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT hashtextextended(concat_ws('|',
    r.memory_mb, r.min_memory_mb, r.cpu_cores, r.min_cpu_cores, r.token_budget, r.disk_space_mb,
    r.security_level, r.isolation_level, r.special_tools, r.capabilities, r.labels, r.rules,
    r.avoid_agents,
    -- Hard affinity ties the request to whoever worked on its cycle.
    CASE WHEN r.affinity = 'hard' THEN r.project || '/' || r.cycle_id END), 0)
$$
