-- card_1: an agent that a strategy has ranked: its id and name, its score, and what that was made of, a
-- JSON object as text.
CREATE TYPE card_1 AS (id uuid, agent_id text, score float8, parts text)
