-- granted_event_1: the event of a grant. p_charged: the project's share was charged already.
CREATE FUNCTION granted_event_1(
  r request, l lease, p_agent text, p_tier text, p_charged boolean
) RETURNS void LANGUAGE sql AS $$
  INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, detail)
    VALUES ('lease.' || l.status, r.agent_type, p_agent, r.project, r.id, l.id,
      jsonb_build_object('cycle_id', r.cycle_id, 'phase', r.phase, 'attempt', r.attempts,
        'fencing_token', l.fencing_token, 'tier', p_tier, 'waited_s', round(l.waited_s::numeric, 3),
        'charge_s', CASE WHEN p_charged THEN 0 ELSE l.charged_s END))
$$
