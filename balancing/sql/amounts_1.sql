-- amounts_1: what leases reserve under limits.
CREATE TYPE amounts_1 AS (
  memory_mb bigint, cpu_cores numeric, token_budget bigint, disk_space_mb bigint,
  network_bandwidth_mbps float8
)
