-- timing_1: the settings that the functions of this folder need; seconds, and a count.
CREATE TYPE timing_1 AS (
  run_lease_s float8, offer_s float8, backoff_s float8, max_attempts int
)
