-- warm_many_1: what warm_1 says of those of some requests that have soft affinity, in one statement.
-- Plain reads.
CREATE FUNCTION warm_many_1(rs request[]) RETURNS warmth_1[] LANGUAGE sql STABLE AS $$
  SELECT array_agg(ROW(r.id, coalesce(w.agents, '{}'), coalesce(w.warmth, '{}'))::warmth_1)
    FROM unnest(rs) r JOIN pool p ON p.agent_type = r.agent_type CROSS JOIN LATERAL (
      SELECT array_agg(x.agent_id ORDER BY x.warmth DESC) AS agents,
          array_agg(x.warmth ORDER BY x.warmth DESC) AS warmth
        FROM warm_1(r, p.affinity_half_life_s) x) w
    WHERE r.affinity = 'soft'
$$
