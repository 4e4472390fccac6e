-- fitted_1: does some agent with a free slot fit this request now? Plain reads, of the agents those
-- whose class is able: who waits for what nobody has would else cost a look at them all.
-- In this order, whatever the planner knows of the tables: OFFSET and LIMIT keep the two apart, and
-- an order that only the index of a class has keeps it from any other.
CREATE FUNCTION fitted_1(q request) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (
    SELECT FROM (SELECT c.id FROM capability_class c
        WHERE c.agent_type = q.agent_type AND c.agents > 0 AND able_1(c, q) OFFSET 0) able,
      LATERAL (SELECT FROM agent a
        WHERE a.capability_class = able.id AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
          AND fits_1(a, q) ORDER BY a.load LIMIT 1) free)
$$
