-- pick_1: choose and lock (FOR NO KEY UPDATE SKIP LOCKED) the agent for one request:
-- the preferred one, else the sticky one, else the least loaded. Null when none is free.
-- Never waits. Walks the partial index agent_placeable.
CREATE FUNCTION pick_1(r request, OUT chosen agent, OUT tier text) LANGUAGE plpgsql AS $$
DECLARE
  sticky uuid;
BEGIN
  IF r.preferred_agent <> '' THEN
    SELECT * INTO chosen FROM agent a
      WHERE a.agent_id = r.preferred_agent AND a.agent_type = r.agent_type
        AND a.status IN ('busy', 'idle') AND a.health IN ('good', 'probation', 'unknown')
        AND a.load < a.max_concurrent AND fits_1(a, r)
      FOR NO KEY UPDATE SKIP LOCKED;
    IF chosen.id IS NOT NULL THEN tier := 'preferred'; RETURN; END IF;
  END IF;

  IF r.affinity <> 'none' THEN
    sticky := sticky_1(r);
    IF sticky IS NOT NULL THEN
      SELECT * INTO chosen FROM agent a
        WHERE a.id = sticky
          AND a.status IN ('busy', 'idle') AND a.health IN ('good', 'probation', 'unknown')
          AND a.load < a.max_concurrent AND fits_1(a, r)
        FOR NO KEY UPDATE SKIP LOCKED;
      IF chosen.id IS NOT NULL THEN tier := 'affinity'; RETURN; END IF;
      -- Hard: wait for that one, unless it is gone for good.
      IF r.affinity = 'hard' AND EXISTS (
        SELECT FROM agent a WHERE a.id = sticky AND a.status NOT IN ('lost', 'retired')
      ) THEN RETURN; END IF;
    END IF;
  END IF;

  SELECT * INTO chosen FROM agent a
    WHERE a.agent_type = r.agent_type
      AND a.status IN ('busy', 'idle') AND a.health IN ('good', 'probation', 'unknown')
      AND a.load < a.max_concurrent AND fits_1(a, r)
    ORDER BY a.load LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED;
  IF chosen.id IS NOT NULL THEN tier := 'strategy'; END IF;
END $$
