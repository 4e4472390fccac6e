-- store_waiting_1: nobody is free for a request: store it as waiting, or say why it is refused, with
-- an event in either case: demand is counted at arrival, also what was refused. p_nobody: not even
-- an agent that only a limit kept from it. p_able: as of satisfiable_1. Returns the code, as acquire_1
-- does.
CREATE FUNCTION store_waiting_1(
  r request, p policy_1, p_queue boolean, p_nobody boolean, p_able boolean
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  code text := CASE WHEN p_queue THEN 'waiting' ELSE 'exhausted' END;
BEGIN
  IF p_nobody AND NOT satisfiable_1(r, p, p_able) THEN
    IF r.allow_future AND p_queue THEN
      r.unsatisfiable := true;
    ELSE
      code := 'unsatisfiable';
    END IF;
  END IF;
  -- Who cannot wait is not refused beside an agent that somebody else only has locked just now.
  IF code = 'exhausted' AND p_nobody AND p_able AND fitted_1(r)
      AND NOT EXISTS (SELECT FROM lock_key k WHERE k.key = ANY (r.lock_keys))
      AND (r.affinity <> 'hard' OR bound_to_1(r) IS NULL) THEN
    RETURN 'locked';
  END IF;
  IF code = 'waiting' AND queue_full_1(r) THEN code := 'queue_full'; END IF;
  IF code = 'waiting' THEN
    INSERT INTO request SELECT r.*;
    PERFORM share_enter_1(r.agent_type, r.project, p.share_half_life_s);
    INSERT INTO event (kind, agent_type, project, request_id, actor, detail)
      VALUES ('request.waiting', r.agent_type, r.project, r.id, r.requested_by,
        jsonb_build_object('cycle_id', r.cycle_id, 'phase', r.phase, 'reason', 'arrived'));
  ELSE
    INSERT INTO event (kind, agent_type, project, request_id, actor, detail)
      VALUES ('request.refused', r.agent_type, r.project, r.id, r.requested_by,
        jsonb_build_object('cycle_id', r.cycle_id, 'phase', r.phase, 'reason', code));
  END IF;
  RETURN code;
END $$
