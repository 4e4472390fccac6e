-- sticky_1: the agent that worked last on the request's cycle, else (within the prompt-cache
-- lifetime of 300 s) on its project; null when nobody did.
-- Reads the indexes lease_by_cycle and lease_by_project; locks nothing.
CREATE FUNCTION sticky_1(r request) RETURNS uuid LANGUAGE sql STABLE AS $$
  SELECT coalesce(
    (SELECT l.agent_id FROM lease l
      WHERE r.cycle_id <> '' AND l.project = r.project AND l.cycle_id = r.cycle_id
        AND l.agent_type = r.agent_type
      ORDER BY l.fencing_token DESC LIMIT 1),
    (SELECT l.agent_id FROM lease l
      WHERE r.affinity <> 'hard' AND l.project = r.project AND l.agent_type = r.agent_type
        AND l.acquired_at > now() - interval '300 seconds'
      ORDER BY l.fencing_token DESC LIMIT 1))
$$
