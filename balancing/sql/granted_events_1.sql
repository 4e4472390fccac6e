-- granted_events_1: the events of grants. names: of the agents, in the order of the leases.
-- p_charged: the projects' shares were charged already.
CREATE FUNCTION granted_events_1(ls lease[], names text[], p_charged boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, detail)
    SELECT 'lease.' || l.status, l.agent_type, names[l.ordinality], l.project, l.request_id, l.id,
        jsonb_build_object('cycle_id', l.cycle_id, 'phase', l.phase, 'attempt', l.attempt,
          'fencing_token', l.fencing_token, 'tier', l.decision->>'tier',
          'waited_s', round(l.waited_s::numeric, 3),
          'charge_s', CASE WHEN p_charged THEN 0 ELSE l.charged_s END)
      FROM unnest(ls) WITH ORDINALITY l;
END $$
