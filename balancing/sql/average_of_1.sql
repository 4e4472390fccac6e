-- average_of_1: what is usual for a request's kind of work in its pool; without a row of that kind,
-- what is usual for others; without any, what balancing.outlook.nothing_known says.
CREATE FUNCTION average_of_1(r request) RETURNS average_1 LANGUAGE plpgsql STABLE AS $$
DECLARE
  p average_1;
BEGIN
  SELECT o.odds, o.log_s, o.odds_doubt, o.log_s_doubt, o.match_odds, o.match_log_s, o.noise,
      o.retry_s, o.tokens, o.efficiency
    INTO p FROM outlook o
    WHERE o.agent_type = r.agent_type AND o.agent_id IS NULL AND o.story_type = r.story_type;
  IF FOUND THEN RETURN p; END IF;
  SELECT o.odds, o.log_s, o.odds_doubt, o.log_s_doubt, o.match_odds, o.match_log_s, o.noise,
      o.retry_s, o.tokens, o.efficiency
    INTO p FROM outlook o
    WHERE o.agent_type = r.agent_type AND o.agent_id IS NULL AND o.story_type IS NULL;
  IF FOUND THEN RETURN p; END IF;
  p.odds := 0.6;
  p.log_s := ln(greatest(0.001, coalesce(r.expected_duration_s, 600)));
  p.odds_doubt := 0.7 ^ 2 + 0.53 ^ 2 + 0.7 ^ 2;
  p.log_s_doubt := 1.2 ^ 2 + 0.35 ^ 2 + 0.4 ^ 2;
  p.match_odds := 0.2;
  p.match_log_s := -0.15;
  p.noise := 0.36;
  p.retry_s := exp(p.log_s + 0.18) * (1 + exp(-0.6 / sqrt(1 + pi() * 0.49 / 8)));
  p.tokens := 0;
  p.efficiency := 0.5;
  RETURN p;
END $$
