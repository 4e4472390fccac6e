-- park_1: a lease waits for a person or a rate limit: it keeps its lock keys, its slot and amounts
-- are free again. By compare-and-set on (id, token, active); code ok or lease_lost.
CREATE FUNCTION park_1(
  p_lease uuid, p_token bigint, p_actor text, p_reason text, t timing_1, OUT code text
) LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  l lease;
  freed agent[];
BEGIN
  code := 'lease_lost';
  UPDATE lease SET status = 'parked', parked_at = clock_timestamp()
    WHERE id = p_lease AND fencing_token = p_token AND status = 'active' RETURNING * INTO l;
  IF NOT FOUND THEN RETURN; END IF;
  code := 'ok';
  SELECT f.freed INTO freed FROM free_slots_1(ARRAY[l], ARRAY[p_actor], true) f;
  INSERT INTO event (kind, agent_type, agent_id, project, request_id, lease_id, actor, detail)
    VALUES ('lease.parked', l.agent_type, freed[1].agent_id, l.project, l.request_id, l.id, p_actor,
      jsonb_build_object('cycle_id', l.cycle_id, 'phase', l.phase, 'reason', p_reason,
        'fencing_token', l.fencing_token));
  PERFORM hand_over_1(l.agent_type, l.agent_id, t);
END $$
