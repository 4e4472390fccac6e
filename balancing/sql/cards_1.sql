-- cards_1: the first `most` of candidates_1's, as a JSON array of {agent_id, score, parts}. Text: nobody
-- looks into it before it is read as a whole.
CREATE FUNCTION cards_1(names text[], scores float8[], parts text[], most int) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  cards text := '';
BEGIN
  FOR n IN 1..least(most, coalesce(cardinality(names), 0)) LOOP
    cards := concat(cards, CASE WHEN n > 1 THEN ', ' END, '{"agent_id": ', to_json(names[n]),
      ', "score": ', scores[n], ', "parts": ', parts[n], '}');
  END LOOP;
  RETURN concat('[', cards, ']');
END $$
