-- shares_fold_1: charge the shares with what the events since the last time say: grants that were
-- not charged at once, and at each end the difference to what was charged. Every numbered event
-- counts once. Returns how many events were read; another caller at work: 0.
CREATE FUNCTION shares_fold_1(p_batch int) RETURNS int LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  state share_state;
  newest bigint;
  n int;
BEGIN
  INSERT INTO share_state (id, last_seq) VALUES (1, 0) ON CONFLICT (id) DO NOTHING;
  SELECT * INTO state FROM share_state WHERE id = 1 FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN RETURN 0; END IF;
  SELECT max(e.seq), count(*) INTO newest, n FROM (
    SELECT seq FROM event_number WHERE seq > state.last_seq ORDER BY seq LIMIT p_batch) e;
  IF n = 0 THEN RETURN 0; END IF;
  PERFORM share_charge_1(c.agent_type, c.project, c.cost_s, true)
    FROM (
      SELECT e.agent_type, e.project, sum((e.detail->>'charge_s')::float8) AS cost_s
        FROM event_number x, LATERAL (SELECT * FROM event e WHERE e.id = x.event_id OFFSET 0) e
        WHERE x.seq > state.last_seq AND x.seq <= newest AND e.detail ? 'charge_s'
        GROUP BY e.agent_type, e.project ORDER BY e.agent_type, e.project) c
      JOIN pool p USING (agent_type);
  UPDATE share_state SET last_seq = newest WHERE id = 1;
  RETURN n;
END $$
