-- lessons_1: what the leases teach that ended after one event and up to another, in the order of the
-- events; cancelled work says nothing. match: share of the tags that the agent's capabilities have,
-- less a half, 0 without tags. elsewhere: the same work has failed with another agent, too.
CREATE FUNCTION lessons_1(p_after bigint, p_to bigint)
RETURNS TABLE (
  agent_type text, agent_id uuid, story_type text, at float8, duration_s float8, is_success boolean,
  match float8, waited_s float8, tokens float8, efficiency float8, story text, elsewhere boolean
) LANGUAGE sql STABLE AS $$
  SELECT o.agent_type, o.agent_id, o.story_type, extract(epoch FROM o.ended_at)::float8,
      o.duration_s, o.outcome = 'success',
      CASE WHEN o.tags = '{}' THEN 0 ELSE (SELECT count(*) FROM unnest(o.tags) t
        WHERE t = ANY (a.capabilities))::float8 / cardinality(o.tags) - 0.5 END,
      o.waited_s, (o.tokens_in + o.tokens_out)::float8, efficiency_1(o),
      CASE WHEN o.cycle_id <> '' THEN o.project || '/' || o.cycle_id || '/' || o.phase
        ELSE (SELECT l.request_id::text FROM lease l WHERE l.id = o.lease_id) END,
      o.outcome <> 'success' AND EXISTS (
        SELECT FROM lease l JOIN request q ON q.id = l.request_id
          JOIN request s ON s.id = q.id OR (q.cycle_id <> '' AND s.project = q.project
            AND s.cycle_id = q.cycle_id AND s.phase = q.phase)
          JOIN lease x ON x.request_id = s.id
          WHERE l.id = o.lease_id AND x.agent_id <> o.agent_id
            AND x.outcome IN ('failure', 'timeout'))
    FROM event e JOIN outcome o ON o.lease_id = e.lease_id JOIN agent a ON a.id = o.agent_id
    WHERE e.seq > p_after AND e.seq <= p_to
      AND e.kind IN ('lease.released', 'lease.expired', 'lease.lost', 'lease.cancelled')
      AND o.outcome <> 'cancelled'
    ORDER BY e.seq
$$
