-- nearest_1: of what near_1 found for one of its looks, the agent, and the decision as pick_1 words it;
-- null when that is not for sure: nobody is left, or somebody who was given something since then (given;
-- given_load: the least load among them) may be less loaded. Reads and locks nothing. The decision is
-- put together as text, as in lease_shown_1.
CREATE FUNCTION nearest_1(
  look int, looks int[], ids uuid[], names text[], loads int[], generalities int[],
  given uuid[], given_load int, OUT id uuid, OUT decision json
) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  first int := array_position(looks, look);
  shown int := 0;
  parts text;
  best text;
  others text := '';
BEGIN
  IF first IS NULL THEN RETURN; END IF;
  FOR n IN first..cardinality(looks) LOOP
    EXIT WHEN looks[n] <> look OR shown = 3;
    CONTINUE WHEN ids[n] = ANY (given);
    IF shown = 0 AND loads[n] >= given_load THEN RETURN; END IF;
    parts := concat('"score": ', -loads[n] - 0.001 * generalities[n], ', "parts": {"load": ',
      loads[n], ', "generality": ', generalities[n], '}');
    IF shown = 0 THEN
      id := ids[n];
      best := parts;
    END IF;
    others := concat(others, CASE WHEN shown > 0 THEN ', ' END, '{"agent_id": ', to_json(names[n]),
      ', ', parts, '}');
    shown := shown + 1;
  END LOOP;
  IF id IS NULL THEN RETURN; END IF;
  decision := concat('{"strategy": "least_loaded", "tier": "strategy", ', best,
    ', "candidates": [', others, ']}');
END $$
