-- granted_from_queue_1: a waiting request was granted: insert the lease, note it, charge its project
-- at once (so that the next in turn is another's), write the event.
CREATE FUNCTION granted_from_queue_1(l lease, p_agent text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO lease SELECT l.*;
  UPDATE request SET status = 'granted', reason = '', reason_code = '', attempts = l.attempt,
      granted_at = l.acquired_at, not_before = NULL, reserved_agent = NULL, unsatisfiable = false
    WHERE id = l.request_id;
  PERFORM granted_events_1(ARRAY[l], ARRAY[p_agent],
    share_charge_1(l.agent_type, l.project, l.charged_s, false));
END $$
