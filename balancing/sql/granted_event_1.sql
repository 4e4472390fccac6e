-- granted_event_1: the event of a grant. p_charged: the project's share was charged already.
CREATE FUNCTION granted_event_1(l lease, p_agent text, p_charged boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, detail)
    VALUES ('lease.' || l.status, l.agent_type, p_agent, l.project, l.request_id, l.id,
      jsonb_build_object('cycle_id', l.cycle_id, 'phase', l.phase, 'attempt', l.attempt,
        'fencing_token', l.fencing_token, 'tier', l.decision->>'tier',
        'waited_s', round(l.waited_s::numeric, 3),
        'charge_s', CASE WHEN p_charged THEN 0 ELSE l.charged_s END));
END $$
