-- share_charge_1: add slot-seconds (negative: give back) to a project's use of a pool, decayed by
-- the pool's half-life, divided by its weight. Stored inflated, as log2, so that the order of
-- projects never changes by time alone (balancing/fairness.py). p_wait false: when the row is
-- locked nothing happens and false is returned; the charge is then the tick's to make.
CREATE FUNCTION share_charge_1(
  p_type text, p_project text, p_cost_s float8, p_wait boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  s share;
  half_life_s float8;
  weight float8;
  x float8;
BEGIN
  SELECT * INTO s FROM share WHERE agent_type = p_type AND project = p_project
    FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND AND p_wait THEN
    -- share_enter_1 only tries this lock: it never waits for us.
    PERFORM pg_advisory_xact_lock(hashtextextended('share:' || p_type || '/' || p_project, 0));
    INSERT INTO share (agent_type, project, log_usage)
      SELECT p_type, p_project, extract(epoch FROM now()) / p.share_half_life_s
        FROM pool p WHERE p.agent_type = p_type
      ON CONFLICT (agent_type, project) DO NOTHING;
    SELECT * INTO s FROM share WHERE agent_type = p_type AND project = p_project FOR NO KEY UPDATE;
  END IF;
  IF s.id IS NULL THEN RETURN false; END IF;
  IF p_cost_s = 0 THEN RETURN true; END IF;
  -- Only now that the row is held: who changes the half-life rescales the rows, and one that was read
  -- before would charge more than anybody ever used.
  SELECT p.share_half_life_s INTO half_life_s FROM pool p WHERE p.agent_type = p_type;
  SELECT l.weight INTO weight FROM resource_limit l WHERE l.level = 'project' AND l.name = p_project;
  x := ln(abs(p_cost_s) / coalesce(weight, 1)) / ln(2)
    + extract(epoch FROM clock_timestamp())::float8 / half_life_s;
  UPDATE share SET updated_at = clock_timestamp(), log_usage = CASE
      WHEN p_cost_s > 0 THEN greatest(s.log_usage, x)
        + ln(1 + 2::float8 ^ greatest(-1000, -abs(s.log_usage - x))) / ln(2)
      -- Never below a tenth of a second's use now.
      WHEN x >= s.log_usage THEN
        least(s.log_usage, extract(epoch FROM clock_timestamp())::float8 / half_life_s - 3)
      ELSE greatest(s.log_usage + ln(1 - 2::float8 ^ greatest(-1000, x - s.log_usage)) / ln(2),
        least(s.log_usage, extract(epoch FROM clock_timestamp())::float8 / half_life_s - 3)) END
    WHERE id = s.id;
  RETURN true;
END $$
