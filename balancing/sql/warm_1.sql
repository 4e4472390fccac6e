-- warm_1: who worked on the request's cycle, project or paths lately, and how much of it is left:
-- 1 for the cycle, 0.5 (to 0.9 by common paths) for the project, halved each half-life since then.
-- Looks at the newest lease of the cycle and the 8 newest of the project. Mirrors scoring.warmth.
-- OFFSET 0: from the cycle to its requests to their leases, also by a plan made when the tables were
-- empty; for the newest first such a plan had walked all leases. Rows compared, not two equalities:
-- so only index lease_by_project gives the order that is asked for.
CREATE FUNCTION warm_1(r request, p_half_life_s float8)
RETURNS TABLE (agent_id uuid, warmth float8) LANGUAGE sql STABLE AS $$
  SELECT x.agent_id, max(x.match * 2::float8 ^ greatest(-1000, -greatest(0, extract(epoch FROM
      clock_timestamp() - coalesce(x.released_at, clock_timestamp()))) / p_half_life_s))
    FROM (
      (SELECT l.agent_id, l.released_at, 1::float8 AS match
        FROM (SELECT c.id FROM request c
            WHERE c.project = r.project AND c.cycle_id = r.cycle_id OFFSET 0) c
          CROSS JOIN LATERAL (SELECT y.agent_id, y.released_at, y.fencing_token FROM lease y
            WHERE y.request_id = c.id AND y.agent_type = r.agent_type OFFSET 0) l
        WHERE r.cycle_id <> ''
        ORDER BY l.fencing_token DESC LIMIT 1)
      UNION ALL
      (SELECT l.agent_id, l.released_at, 0.5 + CASE WHEN r.paths = '{}' THEN 0 ELSE
          (SELECT 0.4 * count(DISTINCT p) / cardinality(r.paths) FROM request q, unnest(q.paths) p
            WHERE q.id = l.request_id AND p = ANY (r.paths)) END
        FROM lease l
        WHERE (l.project, l.agent_type) >= (r.project, r.agent_type)
          AND (l.project, l.agent_type) <= (r.project, r.agent_type)
        ORDER BY l.project, l.agent_type, l.fencing_token DESC LIMIT 8)) x
    GROUP BY x.agent_id
$$
