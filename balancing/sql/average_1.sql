-- average_1: what is usual in a pool for one kind of work (balancing.outlook.Average).
CREATE TYPE average_1 AS (
  odds float8, log_s float8, odds_doubt float8, log_s_doubt float8, match_odds float8,
  match_log_s float8, noise float8, retry_s float8, tokens float8, efficiency float8
)
