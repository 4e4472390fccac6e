-- policy_1: what a pool and the limits on it say about one claim. Ceilings are for one lease
-- (profile and limits together); limits: those that have amounts, in the order of their locks;
-- is_capacity_limited: whether one of these is of memory or CPU; null where there is none.
CREATE TYPE policy_1 AS (
  strategy text, affinity_half_life_s float8, share_half_life_s float8, mean_service_s float8,
  network smallint, ceiling_memory_mb bigint, ceiling_cpu_cores numeric,
  ceiling_token_budget bigint, ceiling_disk_space_mb bigint,
  least_memory_mb bigint, least_cpu_cores numeric, limits resource_limit[],
  is_capacity_limited boolean
)
