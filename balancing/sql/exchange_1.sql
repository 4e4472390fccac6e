-- exchange_1: end leases, then ask for agents, in one transaction and one round trip; what close_1
-- and acquire_1 do. One row for each end, then one for each wish, in their order: code, the lease as
-- it is shown, and the pools whose queue must be looked at after the commit.
CREATE FUNCTION exchange_1(p_closes jsonb, p_requests jsonb, t timing_1)
RETURNS TABLE (code text, shown json, pools text[]) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  IF p_closes <> '[]' THEN
    RETURN QUERY SELECT c.code, lease_shown_1(c.l, c.agent_name, c.endpoint), c.pools
      FROM close_1(p_closes, t) c;
  END IF;
  IF p_requests <> '[]' THEN
    RETURN QUERY SELECT g.code, lease_shown_1(g.l, g.agent_name, g.endpoint), '{}'::text[]
      FROM acquire_1(p_requests, true, false, t) g;
  END IF;
END $$
