-- heard_1: the next events after the mark of learning, at most a batch, and all that is needed to
-- learn from the leases that ended by them. No row: somebody else is learning. Locks the mark to the
-- end of the transaction; each statement here sees what was committed before it began, so what is
-- read belongs to the mark. That commit does not wait for the disk: what a crash takes is learnt
-- again, as the mark goes with it. Rows are looked up one by one, by primary key, however many there
-- are: OFFSET 0 leaves the planner no other way.
--
-- told: as `balancing.course.Told`, in the order of events; cancelled work says nothing. match: share
-- of the tags that the agent's capabilities have, less a half, 0 without tags. elsewhere: the same
-- work has failed with another agent, too. pools, agents: those concerned, as `memory.heard` reads
-- them. Agents at work are counted once in half a minute: there may be 100,000 of them.
CREATE FUNCTION heard_1(p_batch int)
RETURNS TABLE (events bigint, newest bigint, told json, pools json, agents json)
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  mark bigint;
BEGIN
  SELECT last_seq INTO mark FROM learning_state WHERE id = 1 FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    INSERT INTO learning_state (id, last_seq) VALUES (1, 0) ON CONFLICT (id) DO NOTHING
      RETURNING last_seq INTO mark;
    IF NOT FOUND THEN RETURN; END IF;
  END IF;
  PERFORM set_config('synchronous_commit', 'off', true);
  RETURN QUERY WITH heard AS MATERIALIZED (
    SELECT e.seq, e.kind, e.lease_id FROM event e WHERE e.seq > mark ORDER BY e.seq LIMIT p_batch
  ), lesson AS MATERIALIZED (
    SELECT h.seq, o.*, a.* FROM heard h,
      LATERAL (SELECT o.lease_id, o.agent_type, o.agent_id, o.story_type, o.ended_at, o.outcome,
          o.duration_s, o.tags, o.waited_s, o.tokens_in + o.tokens_out AS tokens, o.project,
          o.cycle_id, o.phase, efficiency_1(o) AS efficiency FROM outcome o
        WHERE o.lease_id = h.lease_id AND o.outcome <> 'cancelled' OFFSET 0) o,
      LATERAL (SELECT a.capabilities, a.health, a.health_by, a.generation FROM agent a
        WHERE a.id = o.agent_id OFFSET 0) a
      WHERE h.kind IN ('lease.released', 'lease.expired', 'lease.lost', 'lease.cancelled')
  )
  SELECT (SELECT count(*) FROM heard), (SELECT max(h.seq) FROM heard h),
    (SELECT json_agg(json_build_array(o.agent_type, o.agent_id, o.story_type,
        extract(epoch FROM o.ended_at)::float8, ln(greatest(0.01, o.duration_s)),
        (o.outcome = 'success')::int, 1,
        CASE WHEN o.tags = '{}' THEN 0 ELSE (SELECT count(*) FROM unnest(o.tags) t
          WHERE t = ANY (o.capabilities))::float8 / cardinality(o.tags) - 0.5 END,
        o.waited_s, o.tokens, o.efficiency, o.outcome = 'success', o.duration_s,
        CASE WHEN o.cycle_id <> '' THEN o.project || '/' || o.cycle_id || '/' || o.phase
          ELSE (SELECT l.request_id::text FROM lease l WHERE l.id = o.lease_id) END,
        o.outcome <> 'success' AND EXISTS (
          SELECT FROM lease l JOIN request q ON q.id = l.request_id
            JOIN request s ON s.id = q.id OR (q.cycle_id <> '' AND s.project = q.project
              AND s.cycle_id = q.cycle_id AND s.phase = q.phase)
            JOIN lease x ON x.request_id = s.id
            WHERE l.id = o.lease_id AND x.agent_id <> o.agent_id
              AND x.outcome IN ('failure', 'timeout'))) ORDER BY o.seq) FROM lesson o),
    (SELECT json_agg(json_build_array(p.agent_type, p.suspicion_probation,
        p.suspicion_quarantine, l.model, c.agents, extract(epoch FROM c.counted_at)::float8))
      FROM (SELECT DISTINCT o.agent_type FROM lesson o) o
        JOIN pool p USING (agent_type)
        LEFT JOIN pool_learning l USING (agent_type),
        LATERAL (SELECT l.agents, l.counted_at WHERE l.counted_at > now() - interval '30 seconds'
          UNION ALL SELECT count(*), now() FROM agent a WHERE a.agent_type = p.agent_type
            AND a.status IN ('busy', 'idle') LIMIT 1) c),
    (SELECT json_agg(json_build_array(o.agent_type, o.agent_id, o.health, o.health_by, o.generation,
        l.skill, l.suspicion, l.streak, l.why))
      FROM (SELECT DISTINCT o.agent_type, o.agent_id, o.health, o.health_by, o.generation
          FROM lesson o) o
        LEFT JOIN LATERAL (SELECT l.* FROM agent_learning l
          WHERE l.agent_id = o.agent_id OFFSET 0) l ON true);
END $$
