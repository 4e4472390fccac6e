-- rule_holds_1: does one typed comparison {kind, name, op, value} hold? Numbers compare with
-- numbers only; a missing label fails all but != , not_in and absent. Mirrors balancing/fit.py.
CREATE FUNCTION rule_holds_1(labels jsonb, capabilities text[], rule jsonb)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN rule->>'kind' = 'capability' THEN
      (rule->>'name' = ANY (capabilities)) = (rule->>'op' <> 'absent')
    WHEN rule->>'op' = 'exists' THEN labels ? (rule->>'name')
    WHEN rule->>'op' = 'absent' THEN NOT labels ? (rule->>'name')
    WHEN rule->>'op' = '!=' THEN labels->(rule->>'name') IS DISTINCT FROM rule->'value'
    WHEN rule->>'op' = 'not_in' THEN NOT labels ? (rule->>'name')
      OR NOT rule->'value' @> jsonb_build_array(labels->(rule->>'name'))
    WHEN NOT labels ? (rule->>'name') THEN false
    WHEN rule->>'op' = '=' THEN labels->(rule->>'name') = rule->'value'
    WHEN rule->>'op' = 'in' THEN rule->'value' @> jsonb_build_array(labels->(rule->>'name'))
    WHEN jsonb_typeof(labels->(rule->>'name')) <> 'number' THEN false
    WHEN rule->>'op' = '>' THEN (labels->(rule->>'name'))::numeric > (rule->'value')::numeric
    WHEN rule->>'op' = '>=' THEN (labels->(rule->>'name'))::numeric >= (rule->'value')::numeric
    WHEN rule->>'op' = '<' THEN (labels->(rule->>'name'))::numeric < (rule->'value')::numeric
    WHEN rule->>'op' = '<=' THEN (labels->(rule->>'name'))::numeric <= (rule->'value')::numeric
  END
$$
