-- able_agents_1: agents with a free slot that fit a request, looked for in the capability classes that
-- are able, plainest first, however many agents there are; of each class the least loaded first, about
-- `wanted` in all, never none while there is one. held: not these. Plain reads.
CREATE FUNCTION able_agents_1(r request, held uuid[], wanted int)
RETURNS agent[] LANGUAGE plpgsql STABLE AS $$
DECLARE
  found agent[] := '{}';
  c bigint;
BEGIN
  FOR c IN
    SELECT k.id FROM capability_class k
      WHERE k.agent_type = r.agent_type AND k.agents > 0 AND able_1(k, r)
      ORDER BY cardinality(k.tools) + cardinality(k.capabilities) + k.security_level, k.id
  LOOP
    found := found || ARRAY(SELECT a FROM agent a
      WHERE a.capability_class = c AND a.status IN ('busy', 'idle')
        AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
        AND fits_1(a, r) AND a.id <> ALL (held)
      ORDER BY a.load LIMIT wanted);
    -- Nobody is less loaded than the idle; of the loaded some are as good as all.
    EXIT WHEN cardinality(found) >= 4 * wanted
      OR cardinality(found) >= wanted AND (found[cardinality(found)]).load = 0;
  END LOOP;
  RETURN found;
END $$
