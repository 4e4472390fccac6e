-- tenths_1: the sum of two arrays of ten numbers, place by place.
CREATE FUNCTION tenths_1(a anyarray, b anyarray) RETURNS anyarray LANGUAGE sql IMMUTABLE AS $$
  SELECT ARRAY[a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5], a[6] + b[6],
    a[7] + b[7], a[8] + b[8], a[9] + b[9], a[10] + b[10]]
$$
