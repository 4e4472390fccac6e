-- policy_in_1: what policy_of_1 returns, for callers that hold the lock on resource_limit. p_limited:
-- whether there are any limits.
CREATE FUNCTION policy_in_1(p_type text, p_project text, p_limited boolean) RETURNS policy_1
LANGUAGE plpgsql AS $$
DECLARE
  found_policy policy_1;
  l record;
BEGIN
  SELECT p.strategy, p.affinity_half_life_s, p.share_half_life_s, p.mean_service_s,
      s.network_access, s.memory_mb, s.cpu_cores
    INTO found_policy
    FROM pool p LEFT JOIN security_profile s USING (agent_type)
    WHERE p.agent_type = p_type;
  IF found_policy.strategy IS NULL OR NOT p_limited THEN RETURN found_policy; END IF;
  SELECT min(least(x.memory_mb, x.max_memory_mb)) AS memory_mb,
      min(least(x.cpu_cores, x.max_cpu_cores)) AS cpu_cores,
      min(least(x.token_budget, x.max_token_budget)) AS token_budget,
      min(least(x.disk_space_mb, x.max_disk_space_mb)) AS disk_space_mb,
      max(x.min_memory_mb) AS least_memory_mb, max(x.min_cpu_cores) AS least_cpu_cores,
      array_agg(x ORDER BY x.id) FILTER (WHERE
        coalesce(x.memory_mb, x.cpu_cores, x.token_budget, x.disk_space_mb,
          x.network_bandwidth_mbps) IS NOT NULL) AS limits,
      coalesce(bool_or(x.memory_mb IS NOT NULL OR x.cpu_cores IS NOT NULL), false) AS is_capacity
    INTO l
    FROM resource_limit x
    WHERE (x.level = 'installation' AND x.name = '') OR (x.level = 'pool' AND x.name = p_type)
      OR (x.level = 'project' AND x.name = p_project);
  found_policy.ceiling_memory_mb := least(found_policy.ceiling_memory_mb, l.memory_mb);
  found_policy.ceiling_cpu_cores := least(found_policy.ceiling_cpu_cores, l.cpu_cores);
  found_policy.ceiling_token_budget := l.token_budget;
  found_policy.ceiling_disk_space_mb := l.disk_space_mb;
  found_policy.least_memory_mb := l.least_memory_mb;
  found_policy.least_cpu_cores := l.least_cpu_cores;
  found_policy.limits := l.limits;
  found_policy.is_capacity_limited := l.is_capacity;
  RETURN found_policy;
END $$
