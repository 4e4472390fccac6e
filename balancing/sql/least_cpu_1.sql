-- least_cpu_1: the least CPU that a request can live with, cores (formula: balancing/grants.py).
CREATE FUNCTION least_cpu_1(r request) RETURNS numeric LANGUAGE sql STABLE AS $$
  SELECT greatest(r.min_cpu_cores, trunc(r.cpu_cores * 0.8, 3))
$$
