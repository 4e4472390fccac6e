-- able_needs_1: what able_1 asks, of a request whose needs the caller has taken out of its row (see
-- fits_needs_1).
CREATE FUNCTION able_needs_1(
  c capability_class, least_memory bigint, least_cpu numeric, tokens bigint, disk int,
  security smallint, isolation smallint, tools text[], able text[], worn jsonb, rules jsonb
) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT c.tools @> tools
     AND c.memory_mb >= least_memory
     AND c.token_budget >= tokens
     AND c.disk_space_mb >= disk
     AND c.security_level >= security
     AND c.cpu_cores >= least_cpu
     AND isolation <= ANY (c.isolation_levels)
     AND c.capabilities @> able
     AND c.labels @> worn
     AND (rules = '[]' OR rules_hold_1(c.labels, c.capabilities, rules))
$$
