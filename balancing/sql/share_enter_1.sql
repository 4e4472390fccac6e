-- share_enter_1: a project begins to wait in a pool: it gets a share row, and if nothing of it
-- waited there before, the entry penalty: no less use than the least of those that wait now, so
-- that a newcomer does not take everything until it has caught up. Never waits: if another
-- transaction is just entering the same project, the row is that one's to make, and reserve_1's
-- should it fail. (Two batches of new projects in two orders would else wait in a ring.)
CREATE FUNCTION share_enter_1(p_type text, p_project text, p_half_life_s float8)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  lowest float8;
BEGIN
  IF EXISTS (SELECT FROM share WHERE agent_type = p_type AND project = p_project)
    AND EXISTS (SELECT FROM request q WHERE q.agent_type = p_type AND q.project = p_project
      AND q.status = 'waiting' OFFSET 1 LIMIT 1) THEN RETURN; END IF;
  SELECT s.log_usage INTO lowest FROM share s
    WHERE s.agent_type = p_type AND s.project <> p_project
      AND EXISTS (SELECT FROM request q WHERE q.agent_type = p_type AND q.project = s.project
        AND q.status = 'waiting')
    ORDER BY s.log_usage LIMIT 1;
  IF pg_try_advisory_xact_lock(hashtextextended('share:' || p_type || '/' || p_project, 0)) THEN
    INSERT INTO share (agent_type, project, log_usage)
      VALUES (p_type, p_project, coalesce(lowest, extract(epoch FROM now()) / p_half_life_s))
      ON CONFLICT (agent_type, project) DO NOTHING;
  END IF;
  IF lowest IS NOT NULL THEN
    UPDATE share SET log_usage = lowest WHERE id = (
      SELECT id FROM share WHERE agent_type = p_type AND project = p_project
        AND log_usage < lowest FOR NO KEY UPDATE SKIP LOCKED);
  END IF;
END $$
