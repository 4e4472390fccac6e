-- share_left_1: which share of a whole is left, 0 to 1; 0 where there is nothing.
CREATE FUNCTION share_left_1(remains float8, whole float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
  SELECT greatest(0, least(1, coalesce(remains / nullif(whole, 0), 0)))
$$
