-- acquire_1: store a request and, if an agent that fits is free, grant it in the same statement.
-- Without one the request is stored as waiting: after the commit the caller must call serve_1
-- (publish, then look), or with p_queue false nothing is stored and lease_id is null.
-- p_request: all columns of the request by name; number, shape and times are set here.
CREATE FUNCTION acquire_1(
  p_request jsonb, p_queue boolean, t timing_1, OUT request_id uuid, OUT lease_id uuid
) LANGUAGE plpgsql AS $$
DECLARE
  r request := jsonb_populate_record(NULL::request, p_request);
  a agent;
  p record;
  g record;
BEGIN
  r.number := nextval('request_number_seq');
  r.shape := shape_1(r);
  r.created_at := clock_timestamp();
  r.queued_at := r.created_at;
  r.expires_at := r.created_at + make_interval(secs => r.ttl_s);
  request_id := r.id;

  IF keys_free_1(r.lock_keys) THEN
    SELECT * INTO p FROM pick_1(r);
    a := p.chosen;
  END IF;
  IF a.id IS NULL THEN
    IF p_queue THEN
      INSERT INTO request SELECT r.*;
      INSERT INTO event (kind, agent_type, project, request_id, actor, detail)
        VALUES ('request.waiting', r.agent_type, r.project, r.id, r.requested_by,
          jsonb_build_object('cycle_id', r.cycle_id, 'phase', r.phase, 'reason', 'arrived'));
    END IF;
    RETURN;
  END IF;

  SELECT * INTO g FROM grant_1(r, a, p.tier, t);
  r := g.r;
  INSERT INTO request SELECT r.*;
  lease_id := (g.l).id;
END $$
