-- efficiency_1: the used share of what a lease was granted: 0.4 memory, 0.4 CPU, 0.2 tokens. Of a lease
-- that ended before it began (the clock went back) no CPU counts.
CREATE FUNCTION efficiency_1(o outcome) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(0.4 * least(1, o.peak_memory_mb / nullif(o.memory_mb, 0)), 0)
    + 0.4 * least(1, coalesce(
        o.cpu_seconds / nullif(greatest(0, o.duration_s) * o.cpu_cores::float8, 0), 0))
    + 0.2 * least(1, coalesce(
        (o.tokens_in + o.tokens_out)::float8 / nullif(o.token_budget, 0), 0))
$$
