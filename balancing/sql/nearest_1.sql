-- nearest_1: of what near_1 found, the agent for one request, and the decision as pick_1 words it; null
-- when that is not for sure: nobody is left, or somebody who was given something since then (given;
-- given_load: the least load among them) may be less loaded. Reads and locks nothing.
CREATE FUNCTION nearest_1(
  p_request uuid, requests uuid[], ids uuid[], names text[], loads int[], generalities int[],
  given uuid[], given_load int, OUT id uuid, OUT decision jsonb
) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  first int := array_position(requests, p_request);
  shown jsonb[] := '{}';
  best int;
BEGIN
  IF first IS NULL THEN RETURN; END IF;
  FOR n IN first..cardinality(requests) LOOP
    EXIT WHEN requests[n] <> p_request OR cardinality(shown) = 3;
    CONTINUE WHEN ids[n] = ANY (given);
    IF best IS NULL THEN
      IF loads[n] >= given_load THEN RETURN; END IF;
      best := n;
    END IF;
    shown := shown || jsonb_build_object('agent_id', names[n],
      'score', -loads[n] - 0.001 * generalities[n],
      'parts', jsonb_build_object('load', loads[n], 'generality', generalities[n]));
  END LOOP;
  IF best IS NULL THEN RETURN; END IF;
  id := ids[best];
  decision := shown[1] - 'agent_id' || jsonb_build_object('strategy', 'least_loaded',
    'tier', 'strategy', 'candidates', to_jsonb(shown));
END $$
