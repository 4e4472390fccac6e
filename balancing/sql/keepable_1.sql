-- keepable_1: may capacity be kept for this request: does it wait, and for nothing but that? Not one that
-- backs off, whose lock key is taken, that is bound to an agent, is above a ceiling, or that nobody
-- at work could serve: what is kept serves nobody else meanwhile. Plain reads.
CREATE FUNCTION keepable_1(q request) RETURNS boolean LANGUAGE sql STABLE COST 10000 AS $$
  SELECT q.status = 'waiting' AND NOT q.unsatisfiable
    AND (q.not_before IS NULL OR q.not_before <= clock_timestamp())
    AND q.expires_at > clock_timestamp()
    AND NOT EXISTS (SELECT FROM lock_key k WHERE k.key = ANY (q.lock_keys))
    AND (q.affinity <> 'hard' OR bound_to_1(q) IS NULL)
    AND EXISTS (SELECT FROM agent a JOIN capability_class c ON c.id = a.capability_class
      WHERE a.agent_type = q.agent_type AND a.status IN ('busy', 'idle')
        AND a.health IN ('good', 'probation', 'unknown')
        AND able_1(c, q) AND a.agent_id <> ALL (q.avoid_agents))
    AND within_1(q, policy_of_1(q.agent_type, q.project))
$$
