-- queue_full_1: do as many requests wait in this pool, or of this project in it, as may?
CREATE FUNCTION queue_full_1(r request) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT least(p.queue_limit, p.project_queue_limit) = 0
      OR EXISTS (SELECT FROM request q WHERE q.agent_type = p.agent_type AND q.status = 'waiting'
        OFFSET greatest(0, p.queue_limit - 1) LIMIT 1)
      OR EXISTS (SELECT FROM request q WHERE q.agent_type = p.agent_type AND q.status = 'waiting'
          AND q.project = r.project OFFSET greatest(0, p.project_queue_limit - 1) LIMIT 1)
    FROM pool p WHERE p.agent_type = r.agent_type
$$
