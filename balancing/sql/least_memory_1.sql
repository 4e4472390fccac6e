-- least_memory_1: the least memory that a request can live with, MB (formula: balancing/grants.py).
CREATE FUNCTION least_memory_1(r request) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT greatest(r.min_memory_mb, r.memory_mb::bigint * 8 / 10)
$$
