-- satisfiable_1: could any agent that is not gone, or a new one from the pool's launch template
-- while the pool may still grow, ever serve this request? A new agent is made at least as large as
-- the request asks; what it can otherwise do is what the template says. p_able: whether able_among_1
-- found a capability class for it.
CREATE FUNCTION satisfiable_1(r request, p policy_1, p_able boolean)
RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT within_1(r, p) AND (
    p_able AND (r.avoid_agents = '{}' OR EXISTS (
      SELECT FROM capability_class c
        WHERE c.agent_type = r.agent_type AND c.agents > 0 AND able_1(c, r)
          AND EXISTS (SELECT FROM agent a
            WHERE a.capability_class = c.id AND a.status NOT IN ('lost', 'retired')
              AND a.agent_id <> ALL (r.avoid_agents))))
    OR EXISTS (SELECT FROM pool t
      WHERE t.agent_type = r.agent_type AND t.driver <> ''
        AND t.security_level >= r.security_level
        AND r.isolation_level <= ANY (t.isolation_levels)
        AND t.tools @> r.special_tools AND t.capabilities @> r.capabilities
        AND r.labels = '{}' AND (r.rules = '[]' OR rules_hold_1('{}', t.capabilities, r.rules))
        AND t.max_size > (SELECT coalesce(sum(c.agents), 0) FROM capability_class c
          WHERE c.agent_type = r.agent_type)))
$$
