-- within_1: is the least that the request can live with inside the ceilings for one lease?
CREATE FUNCTION within_1(r request, p policy_1) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT coalesce(least_memory_1(r) <= p.ceiling_memory_mb, true)
     AND coalesce(least_cpu_1(r) <= p.ceiling_cpu_cores, true)
     AND coalesce(r.token_budget <= p.ceiling_token_budget, true)
     AND coalesce(r.disk_space_mb <= p.ceiling_disk_space_mb, true)
$$
