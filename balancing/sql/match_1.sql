-- match_1: the share of tags that an agent's capabilities have, less a half; 0 without tags, or
-- without an agent (capabilities null). One row; a set, so that it becomes a part of the query that
-- asks, which a function with a subquery of its own does not else.
CREATE FUNCTION match_1(tags text[], capabilities text[]) RETURNS TABLE (match float8)
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN tags = '{}' OR capabilities IS NULL THEN 0
    ELSE (SELECT count(*) FROM unnest(tags) t WHERE t = ANY (capabilities))::float8
      / cardinality(tags) - 0.5 END
$$
