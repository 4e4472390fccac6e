-- granted_from_queue_1: a waiting request was granted: note it, charge its project at once (so that
-- the next in turn is another's), write the event.
CREATE FUNCTION granted_from_queue_1(
  r request, l lease, p_agent text, p_tier text, p policy_1
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE request SET status = r.status, reason = r.reason, attempts = r.attempts,
      granted_at = r.granted_at, not_before = NULL, reserved_agent = NULL, unsatisfiable = false
    WHERE id = r.id;
  PERFORM granted_event_1(r, l, p_agent, p_tier,
    share_charge_1(r.agent_type, r.project, l.charged_s, p.share_half_life_s, false));
END $$
