-- ending_1: what ends_1 knows of one lease that it ends: its place in the list, the caller's words,
-- and what of the request it needs. (RETURNING and arrays want a type.)
CREATE TYPE ending_1 AS (
  n bigint, lease_id uuid, "to" text, outcome text, error text, result jsonb, usage jsonb,
  retry boolean, request_to text, actor text, was_parked boolean, waits boolean, attempts int,
  story_type text, tags text[], paths text[]
)
