-- policy_of_1: the policy for a claim of this pool by this project; null when there is no pool.
-- Reading resource_limit holds its table lock (ACCESS SHARE) to the end of the transaction, which
-- is what limit_set_1 waits for. Volatile, and the lock in a statement of its own: the read needs a
-- snapshot that is newer than the lock, or who waited here for a new limit would not see it.
CREATE FUNCTION policy_of_1(p_type text, p_project text) RETURNS policy_1 LANGUAGE plpgsql AS $$
DECLARE
  found_policy policy_1;
BEGIN
  PERFORM FROM resource_limit LIMIT 1;
  SELECT p.strategy, p.affinity_half_life_s, p.share_half_life_s, p.mean_service_s,
      s.network_access, least(s.memory_mb, l.memory_mb), least(s.cpu_cores, l.cpu_cores),
      l.token_budget, l.disk_space_mb, l.least_memory_mb, l.least_cpu_cores, l.limits
    INTO found_policy
    FROM pool p
      LEFT JOIN security_profile s USING (agent_type)
      CROSS JOIN LATERAL (
        SELECT min(least(x.memory_mb, x.max_memory_mb)) AS memory_mb,
            min(least(x.cpu_cores, x.max_cpu_cores)) AS cpu_cores,
            min(least(x.token_budget, x.max_token_budget)) AS token_budget,
            min(least(x.disk_space_mb, x.max_disk_space_mb)) AS disk_space_mb,
            max(x.min_memory_mb) AS least_memory_mb, max(x.min_cpu_cores) AS least_cpu_cores,
            array_agg(x ORDER BY x.id) FILTER (WHERE
              coalesce(x.memory_mb, x.cpu_cores, x.token_budget, x.disk_space_mb,
                x.network_bandwidth_mbps) IS NOT NULL) AS limits
          FROM resource_limit x
          WHERE (x.level = 'installation' AND x.name = '') OR (x.level = 'pool' AND x.name = p_type)
            OR (x.level = 'project' AND x.name = p_project)) l
    WHERE p.agent_type = p_type;
  RETURN found_policy;
END $$
