-- cards_1: the first `most` cards as a JSON array of {agent_id, score, parts}. Text: nobody looks into
-- it before it is read as a whole.
CREATE FUNCTION cards_1(cards card_1[], most int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  shown text := '';
  c card_1;
BEGIN
  FOREACH c IN ARRAY cards[:most] LOOP
    shown := concat(shown, CASE WHEN shown <> '' THEN ', ' END, '{"agent_id": ',
      to_json(c.agent_id), ', "score": ', c.score, ', "parts": ', c.parts, '}');
  END LOOP;
  RETURN concat('[', shown, ']');
END $$
