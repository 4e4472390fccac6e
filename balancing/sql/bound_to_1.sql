-- bound_to_1: the agent that a request of hard affinity waits for, the last one on its cycle; null
-- when there was none or it is gone for good. Locks nothing.
CREATE FUNCTION bound_to_1(r request) RETURNS uuid LANGUAGE sql STABLE AS $$
  SELECT a.id FROM (
      SELECT l.agent_id FROM request c JOIN lease l ON l.request_id = c.id
        WHERE r.cycle_id <> '' AND c.project = r.project AND c.cycle_id = r.cycle_id
          AND l.agent_type = r.agent_type
        ORDER BY l.fencing_token DESC LIMIT 1) x
    JOIN agent a ON a.id = x.agent_id AND a.status NOT IN ('lost', 'retired')
$$
