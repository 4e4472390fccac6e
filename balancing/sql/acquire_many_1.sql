-- acquire_many_1: several requests in one transaction, each as acquire_1 without p_exact would do
-- it, in their order. Never waits. One row each.
CREATE FUNCTION acquire_many_1(p_requests jsonb, p_queue boolean, t timing_1)
RETURNS TABLE (
  code text, request_id uuid, l lease, agent_name text, endpoint text
) LANGUAGE sql AS $$
  SELECT g.* FROM jsonb_array_elements(p_requests) WITH ORDINALITY x (r, n)
    CROSS JOIN LATERAL acquire_1(x.r, p_queue, false, t) g ORDER BY x.n
$$
