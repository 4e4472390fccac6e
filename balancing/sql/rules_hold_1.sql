-- rules_hold_1: do all of these comparisons hold?
CREATE FUNCTION rules_hold_1(labels jsonb, capabilities text[], rules jsonb)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT NOT EXISTS (
    SELECT FROM jsonb_array_elements(rules) rule WHERE NOT rule_holds_1(labels, capabilities, rule))
$$
