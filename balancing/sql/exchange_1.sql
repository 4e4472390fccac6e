-- exchange_1: end leases, then ask for agents, in one transaction and one round trip; what close_1
-- and acquire_1 do. p_credentials: the tokens in whose name it is asked; if any of them is good no
-- more, nothing is done, and the only row has the code 'unauthenticated' and these. Else one row for
-- each end, then one for each wish, in their order: code, the lease as it is shown, and the pools
-- whose queue must be looked at after the commit.
CREATE FUNCTION exchange_1(
  p_closes jsonb, p_requests jsonb, p_credentials uuid[], t timing_1
) RETURNS TABLE (code text, shown json, words text[]) LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  bad text[] := ARRAY(SELECT k FROM unnest(p_credentials) k WHERE NOT EXISTS (
    SELECT FROM credential c WHERE c.id = k AND c.revoked_at IS NULL
      AND (c.expires_at IS NULL OR c.expires_at > clock_timestamp())));
BEGIN
  IF bad <> '{}' THEN
    RETURN QUERY SELECT 'unauthenticated', NULL::json, bad;
    RETURN;
  END IF;
  IF p_closes <> '[]' THEN
    RETURN QUERY SELECT c.code, lease_shown_1(c.l, c.agent_name, c.endpoint), c.pools
      FROM close_1(p_closes, t) c;
  END IF;
  IF p_requests <> '[]' THEN
    RETURN QUERY SELECT g.code, lease_shown_1(g.l, g.agent_name, g.endpoint), '{}'::text[]
      FROM acquire_1(p_requests, true, false, t) g;
  END IF;
END $$
