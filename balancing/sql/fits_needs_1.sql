-- fits_needs_1: what fits_1 asks, of a request whose needs the caller has taken out of its row: a look
-- at many agents then neither does that nor the sums anew for each of them.
CREATE FUNCTION fits_needs_1(
  a agent, p_request uuid, least_memory bigint, least_cpu numeric, tokens bigint, disk int,
  security smallint, isolation smallint, tools text[], able text[], worn jsonb, avoided text[],
  rules jsonb
) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT a.memory_mb - a.used_memory_mb >= least_memory
     AND a.token_budget - a.used_token_budget >= tokens
     AND a.disk_space_mb - a.used_disk_space_mb >= disk
     AND a.security_level >= security
     AND a.tools @> tools
     AND a.cpu_cores - a.used_cpu_cores >= least_cpu
     AND isolation <= ANY (a.isolation_levels)
     AND a.capabilities @> able
     AND a.labels @> worn
     AND a.agent_id <> ALL (avoided)
     AND (a.health <> 'probation' OR a.load = 0)
     AND (a.reserved_for IS NULL OR a.reserved_for = p_request)
     AND (rules = '[]' OR rules_hold_1(a.labels, a.capabilities, rules))
$$
