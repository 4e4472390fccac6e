-- lesson_1: what one outcome teaches: `balancing.course.Told` without its last field, which only
-- suspicion asks for. One row; becomes a part of the query that asks, as match_1.
CREATE FUNCTION lesson_1(o outcome, capabilities text[])
RETURNS TABLE (
  agent_type text, agent text, story_type text, at float8, log_s float8, successes float8,
  leases int, match float8, waited_s float8, tokens float8, efficiency float8, is_success boolean,
  duration_s float8
) LANGUAGE sql STABLE AS $$
  SELECT o.agent_type, o.agent_id::text, o.story_type, extract(epoch FROM o.ended_at)::float8,
      ln(greatest(0.01, o.duration_s)), (o.outcome = 'success')::int::float8, 1, m.match,
      o.waited_s, (o.tokens_in + o.tokens_out)::float8, efficiency_1(o), o.outcome = 'success',
      o.duration_s
    FROM match_1(o.tags, capabilities) m
$$
