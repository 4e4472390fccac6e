-- retire_drained_1: retire those of some agents that are draining, shall go, and hold nothing any more,
-- parked leases included, and say who ended the last one. actors: in the order of ids; an agent that
-- is there several times goes by its last. Locks the agents, then their classes, in the order of ids;
-- only then it looks for what is parked, so that it sees what they were waited for.
CREATE FUNCTION retire_drained_1(ids uuid[], actors text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  a agent;
BEGIN
  IF cardinality(ids) > 1 THEN
    -- Each that retires leaves its class, which counts (agent_counted_1).
    PERFORM FROM agent x
      WHERE x.id = ANY (ids) AND x.status = 'draining' AND x.load = 0 AND x.retire_when_drained
      ORDER BY x.id FOR NO KEY UPDATE;
    PERFORM FROM capability_class c WHERE c.id = ANY (ARRAY(
        SELECT x.capability_class FROM agent x
          WHERE x.id = ANY (ids) AND x.status = 'draining' AND x.load = 0 AND x.retire_when_drained))
      ORDER BY c.id FOR NO KEY UPDATE;
  END IF;
  FOR a IN SELECT * FROM agent x
      WHERE x.id = ANY (ids) AND x.status = 'draining' AND x.load = 0 AND x.retire_when_drained
      ORDER BY x.id FOR NO KEY UPDATE LOOP
    UPDATE agent SET status = 'retired', generation = generation + 1, updated_at = clock_timestamp()
      WHERE id = a.id AND NOT EXISTS (
        SELECT FROM lease l WHERE l.agent_id = a.id AND l.status = 'parked');
    CONTINUE WHEN NOT FOUND;
    INSERT INTO event (kind, agent_type, agent_id, actor, detail) VALUES
      ('agent.retired', a.agent_type, a.agent_id,
        (SELECT actors[u.ordinality] FROM unnest(ids) WITH ORDINALITY u (id)
          WHERE u.id = a.id ORDER BY u.ordinality DESC LIMIT 1),
        '{"reason": "drained"}');
  END LOOP;
END $$
