-- exchange_1: end leases, then ask for agents, in one transaction and one round trip; what close_1 and
-- acquire_1 do, but that an agent which one lease leaves and another takes is written once.
-- p_credentials: the tokens in whose name it is asked; if any of them is good no more, nothing is
-- done, and the only row has the code 'unauthenticated' and these. Else one row for each end, then
-- one for each wish, in their order: code, the lease as it is shown, and the pools whose queue must be
-- looked at after the commit.
CREATE FUNCTION exchange_1(
  p_closes jsonb, p_usual jsonb, p_requests jsonb, p_credentials uuid[], t timing_1
) RETURNS TABLE (code text, shown text, words text[]) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_material = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  bad text[] := ARRAY(SELECT k FROM unnest(p_credentials) k WHERE NOT EXISTS (
    SELECT FROM credential c WHERE c.id = k AND c.revoked_at IS NULL
      AND (c.expires_at IS NULL OR c.expires_at > clock_timestamp())));
  d record;
  g record;
  unwritten agent[] := '{}';
BEGIN
  IF bad <> '{}' THEN
    RETURN QUERY SELECT 'unauthenticated', NULL::text, bad;
    RETURN;
  END IF;
  IF p_closes <> '[]' THEN
    d := ends_1(p_closes, t, p_requests = '[]');
    unwritten := d.unwritten;
    FOR i IN 1..cardinality(d.codes) LOOP
      code := d.codes[i];
      shown := lease_shown_1(d.ls[i], d.names[i], d.endpoints[i]);
      words := CASE code WHEN 'ok' THEN d.concerned ELSE '{}' END;
      RETURN NEXT;
    END LOOP;
  END IF;
  IF p_requests <> '[]' THEN
    g := grants_1(p_usual, p_requests, true, false, t, unwritten);
    words := '{}';
    FOR i IN 1..cardinality(g.codes) LOOP
      code := g.codes[i];
      shown := lease_shown_1(g.ls[i], g.names[i], g.endpoints[i]);
      RETURN NEXT;
    END LOOP;
  END IF;
END $$
