-- expected_1: what is expected of an agent with a request, from the rows that learning writes down:
-- share of successes, seconds and their bounds for 8 of 10, what it rests on, and the seconds until
-- success that one hopes for. Formulas: balancing/outlook.py (expect, hoped_s); a test holds the two
-- together. p: of average_of_1.
CREATE FUNCTION expected_1(a agent, r request, p average_1)
RETURNS TABLE (
  success float8, success_low float8, success_high float8, seconds float8, seconds_low float8,
  seconds_high float8, tokens float8, efficiency float8, leases int, learnt_at float8,
  hoped_s float8
) LANGUAGE sql STABLE AS $$
  SELECT z.success, 1 / (1 + exp(z.reach - x.odds)), 1 / (1 + exp(-z.reach - x.odds)), z.seconds,
      exp(x.log_s - z.reach_s), exp(x.log_s + z.reach_s), coalesce(o.tokens, p.tokens),
      coalesce(o.efficiency, p.efficiency), coalesce(o.leases, 0),
      coalesce(extract(epoch FROM o.learnt_at), 0)::float8,
      (z.seconds + (1 - z.success) * p.retry_s)
        * exp(-0.3 * sqrt(x.log_s_doubt + (1 - z.success) ^ 2 * x.odds_doubt))
    FROM match_1(r.tags, a.capabilities) m
      LEFT JOIN LATERAL (
        SELECT * FROM outlook k
          WHERE k.agent_id = a.id AND (k.story_type = r.story_type OR k.story_type IS NULL)
          ORDER BY k.story_type NULLS LAST LIMIT 1) o ON true
      CROSS JOIN LATERAL (SELECT
        p.odds + p.match_odds * m.match + coalesce(o.odds, 0) AS odds,
        p.log_s + p.match_log_s * m.match + coalesce(o.log_s, 0) AS log_s,
        coalesce(o.odds_doubt, p.odds_doubt) AS odds_doubt,
        coalesce(o.log_s_doubt, p.log_s_doubt) AS log_s_doubt) x
      CROSS JOIN LATERAL (SELECT
        1 / (1 + exp(-x.odds / sqrt(1 + pi() * x.odds_doubt / 8))) AS success,
        exp(x.log_s + p.noise / 2) AS seconds,
        1.2816 * sqrt(x.odds_doubt) AS reach,
        1.2816 * sqrt(x.log_s_doubt + p.noise) AS reach_s) z
$$
