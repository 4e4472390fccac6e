-- reserve_1: bounded bypass. The longest waiting request that others have passed too often, or that
-- has waited too long (policy of its pool), gets capacity kept for it: the agent nearest to being
-- free for it takes nobody else, and limits without room for it let nobody else through, until it
-- is granted or gives up. One at a time a pool, and only one that waits for nothing else (keepable_1).
-- Also takes back what is kept for nobody, and makes share rows that are missing (share_enter_1).
-- Rows that somebody else has locked wait for the next tick. Returns the request that was helped.
CREATE FUNCTION reserve_1(p_type text) RETURNS uuid LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  r request;
  p policy_1;
  kept uuid;
BEGIN
  PERFORM share_enter_1(o.agent_type, x.project, o.share_half_life_s)
    FROM pool o CROSS JOIN LATERAL (SELECT DISTINCT q.project FROM request q
      WHERE q.agent_type = o.agent_type AND q.status = 'waiting') x
    WHERE o.agent_type = p_type AND NOT EXISTS (SELECT FROM share s
      WHERE s.agent_type = p_type AND s.project = x.project);
  PERFORM pg_advisory_xact_lock(hashtextextended('serve:' || p_type, 0));
  UPDATE agent SET reserved_for = NULL WHERE id IN (
    SELECT a.id FROM agent a
      WHERE a.agent_type = p_type AND a.reserved_for IS NOT NULL AND NOT EXISTS (
        SELECT FROM request q JOIN capability_class c ON able_1(c, q)
          WHERE q.id = a.reserved_for AND q.reserved_agent = a.id AND keepable_1(q)
            AND c.id = a.capability_class AND a.status IN ('busy', 'idle')
            AND a.health IN ('good', 'probation', 'unknown'))
      FOR NO KEY UPDATE OF a SKIP LOCKED);
  UPDATE resource_limit SET reserved_for = NULL WHERE id IN (
    SELECT l.id FROM resource_limit l
      WHERE l.reserved_for IS NOT NULL AND NOT EXISTS (
        SELECT FROM request q WHERE q.id = l.reserved_for AND keepable_1(q))
      FOR NO KEY UPDATE OF l SKIP LOCKED);
  SELECT q.* INTO r FROM request q JOIN pool o USING (agent_type)
    WHERE q.agent_type = p_type AND q.status = 'waiting' AND NOT q.unsatisfiable
      AND (q.queued_at < clock_timestamp() - make_interval(secs => o.reserve_after_s)
        OR EXISTS (SELECT FROM request x
          WHERE x.number > q.number AND x.agent_type = p_type
            AND x.granted_at > q.queued_at
          OFFSET greatest(0, o.max_bypass - 1) LIMIT 1))
      AND EXISTS (SELECT FROM agent a JOIN capability_class c ON c.id = a.capability_class
        WHERE a.agent_type = p_type AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown')
          AND (a.reserved_for IS NULL OR a.reserved_for = q.id)
          AND able_1(c, q) AND a.agent_id <> ALL (q.avoid_agents))
      AND keepable_1(q)
    ORDER BY q.number LIMIT 1 FOR NO KEY UPDATE OF q SKIP LOCKED;
  IF NOT FOUND THEN RETURN NULL; END IF;

  IF NOT EXISTS (SELECT FROM agent a WHERE a.id = r.reserved_agent AND a.reserved_for = r.id) THEN
    UPDATE agent SET reserved_for = r.id WHERE id = (
      SELECT a.id FROM agent a JOIN capability_class c ON c.id = a.capability_class
        WHERE a.agent_type = p_type AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown') AND a.reserved_for IS NULL
          AND able_1(c, r) AND a.agent_id <> ALL (r.avoid_agents)
        -- Of those with room, the emptiest; else the one that lacks the least.
        ORDER BY fits_1(a, r) DESC, a.max_concurrent - a.load > 0 DESC,
          a.memory_mb - a.used_memory_mb DESC, a.load
        LIMIT 1 FOR NO KEY UPDATE OF a SKIP LOCKED)
      RETURNING id INTO kept;
    UPDATE request SET reserved_agent = kept WHERE id = r.id;
  END IF;

  p := policy_of_1(p_type, r.project);
  IF p.limits IS NOT NULL THEN
    UPDATE resource_limit SET reserved_for = r.id WHERE id IN (
      SELECT l.id FROM resource_limit l JOIN unnest(p.limits) x ON x.id = l.id
        WHERE l.reserved_for IS NULL AND EXISTS (
          SELECT FROM limit_shard s WHERE s.resource_limit_id = l.id
            HAVING sum(s.memory_mb) < least_memory_1(r)
              OR sum(s.cpu_cores) < least_cpu_1(r)
              OR sum(s.token_budget) < r.token_budget OR sum(s.disk_space_mb) < r.disk_space_mb
              OR sum(s.network_bandwidth_mbps) < 10)
        FOR NO KEY UPDATE OF l SKIP LOCKED);
  END IF;
  RETURN r.id;
END $$
