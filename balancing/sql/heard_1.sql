-- heard_1: the next events after the mark of learning, at most a batch, and all that is needed to
-- learn from the leases that ended by them, all as it was at one moment. Locks nothing: learnt_1
-- writes only if nobody else has moved the mark since, which version tells. Rows are looked up
-- one by one, by primary key, however many there are: OFFSET 0 leaves the planner no other way.
--
-- told: as `balancing.course.Told`, in the order of events; cancelled work says nothing. pools,
-- agents: those concerned, as `memory.heard` reads them; models, skills: what is known of them, in
-- the same order, null: nothing. Agents at work are counted once in half a minute: there may be
-- 100,000 of them.
CREATE FUNCTION heard_1(p_batch int)
RETURNS TABLE (
  version bigint, events bigint, newest bigint, told json, pools json, models bytea[], agents json,
  skills bytea[]
) LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_memoize = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  mark bigint;
BEGIN
  SELECT s.version, s.last_seq INTO version, mark FROM learning_state s WHERE s.id = 1;
  version := coalesce(version, 0);
  RETURN QUERY WITH heard AS MATERIALIZED (
    SELECT n.seq, e.kind, e.lease_id
      FROM (SELECT n.seq, n.event_id FROM event_number n WHERE n.seq > coalesce(mark, 0)
        ORDER BY n.seq LIMIT p_batch) n,
        LATERAL (SELECT e.kind, e.lease_id FROM event e WHERE e.id = n.event_id OFFSET 0) e
  ), lesson AS MATERIALIZED (
    SELECT h.seq, h.lease_id, o.* FROM heard h, LATERAL (
      SELECT t.*, a.id, a.health, a.health_by, a.generation
        FROM outcome o JOIN agent a ON a.id = o.agent_id, lesson_1(o, a.capabilities) t
        WHERE o.lease_id = h.lease_id AND o.outcome <> 'cancelled' OFFSET 0) o
      WHERE h.kind IN ('lease.released', 'lease.expired', 'lease.lost', 'lease.cancelled')
  )
  SELECT version, h.events, h.newest, o.told, p.pools, p.models, a.agents, a.skills
    FROM (SELECT count(*) AS events, max(h.seq) AS newest FROM heard h) h,
      (SELECT json_agg(json_build_array(o.agent_type, o.agent, o.story_type, o.at, o.log_s,
          o.successes, o.leases, o.match, o.waited_s, o.tokens, o.efficiency, o.is_success,
          o.duration_s, NOT o.is_success AND failed_before_1(o.lease_id)) ORDER BY o.seq) AS told
        FROM lesson o) o,
      (SELECT json_agg(json_build_array(p.agent_type, p.suspicion_probation,
            p.suspicion_quarantine, c.agents, extract(epoch FROM c.counted_at)::float8)) AS pools,
          array_agg(l.model) AS models
        FROM (SELECT DISTINCT o.agent_type FROM lesson o) o
          JOIN pool p USING (agent_type)
          LEFT JOIN pool_learning l USING (agent_type),
          LATERAL (SELECT l.agents, l.counted_at WHERE l.counted_at > now() - interval '30 seconds'
            UNION ALL SELECT count(*), now() FROM agent a WHERE a.agent_type = p.agent_type
              AND a.status IN ('busy', 'idle') LIMIT 1) c) p,
      (SELECT json_agg(json_build_array(o.agent_type, o.id, o.health, o.health_by,
            o.generation, l.suspicion, l.streak, l.why)) AS agents,
          array_agg(l.skill) AS skills
        FROM (SELECT DISTINCT o.agent_type, o.id, o.health, o.health_by, o.generation
            FROM lesson o) o
          LEFT JOIN LATERAL (SELECT l.* FROM agent_learning l
            WHERE l.agent_id = o.id OFFSET 0) l ON true) a;
END $$
