-- failed_before_1: has the work of a lease failed with another agent, too, or with this one before? The
-- same work: the same request, or the same phase of a cycle. A function of its own, so that a
-- statement which seldom asks does not prepare for it each time.
CREATE FUNCTION failed_before_1(p_lease uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM lease l JOIN request q ON q.id = l.request_id
      JOIN request s ON s.id = q.id OR (q.cycle_id <> '' AND s.project = q.project
        AND s.cycle_id = q.cycle_id AND s.phase = q.phase)
      JOIN lease x ON x.request_id = s.id
      WHERE l.id = p_lease AND x.outcome IN ('failure', 'timeout')
        AND (x.agent_id <> l.agent_id OR x.fencing_token < l.fencing_token));
END $$
