-- near_1: for each of some requests that go by least_loaded alone (covered), the agents that fit, the
-- least loaded first (fitting_1), some more than there are requests, since these take from each other.
-- Of equal places in the other lists: the request, the agent, its name, load and generality. Plain
-- reads, locks nothing. mine, held: as of candidates_1.
CREATE FUNCTION near_1(
  rs request[], mine agent[], held uuid[],
  OUT covered uuid[],
  OUT requests uuid[], OUT ids uuid[], OUT names text[], OUT loads int[], OUT generalities int[]
) LANGUAGE plpgsql AS $$
BEGIN
  covered := ARRAY(SELECT r.id FROM unnest(rs) r JOIN pool p ON p.agent_type = r.agent_type
    WHERE coalesce(nullif(r.strategy, ''), p.strategy) = 'least_loaded' AND r.affinity = 'none'
      AND r.preferred_agent = '');
  SELECT array_agg(r.id), array_agg(c.id), array_agg(c.agent_id), array_agg(c.load::int),
      array_agg(c.generality::int)
    INTO requests, ids, names, loads, generalities
    FROM unnest(rs) r
      CROSS JOIN LATERAL unnest(fitting_1(r, mine, held, least(40, 4 + cardinality(rs)))) c
    WHERE r.id = ANY (covered);
END $$
