-- learnt_1: write down what was learnt, and move the mark to p_mark; if it stands where the learner
-- has read it (p_version), else nothing is written, and the answer is false: somebody else was
-- faster. Raises lock_not_available while all is learnt anew. Locks the mark; nobody else writes the
-- other rows, so their order does not matter. p_lazily: the commit does not wait for the disk: what a
-- crash takes is learnt again, as the mark goes with it.
--
-- Rows of numbers are read as [row][column], times in seconds since the epoch; the words of a row
-- stand beside them in arrays of their own. Tallies are added, all else is replaced.
CREATE FUNCTION learnt_1(
  p_version bigint, p_mark bigint, p_lazily boolean,
  p_pools text[], p_models bytea[], p_pool_numbers float8[],
  p_agents text[], p_agent_pools text[], p_skills bytea[], p_whys text[], p_agent_numbers float8[],
  p_outlook_pools text[], p_outlook_agents text[], p_outlook_kinds text[],
  p_outlooks float8[],
  p_tally_pools text[], p_tally_days text[], p_tallies float8[]
) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  lazily text;
BEGIN
  LOCK TABLE learning_state IN ROW EXCLUSIVE MODE NOWAIT;
  IF p_lazily THEN lazily := set_config('synchronous_commit', 'off', true); END IF;
  INSERT INTO learning_state AS t (id, last_seq, version) VALUES (1, p_mark, 1)
    ON CONFLICT (id) DO UPDATE SET last_seq = p_mark, version = t.version + 1
      WHERE t.version = p_version;
  IF NOT FOUND THEN RETURN false; END IF;
  INSERT INTO pool_learning (agent_type, model, leases, agents, counted_at, learnt_at)
    SELECT p_pools[n], p_models[n], p_pool_numbers[n][1], p_pool_numbers[n][2],
        to_timestamp(p_pool_numbers[n][3]), to_timestamp(p_pool_numbers[n][4])
      FROM generate_series(1, cardinality(p_pools)) n
    ON CONFLICT (agent_type) DO UPDATE SET model = excluded.model, leases = excluded.leases,
      agents = excluded.agents, counted_at = excluded.counted_at, learnt_at = excluded.learnt_at;
  INSERT INTO agent_learning (agent_id, agent_type, skill, why, leases, suspicion, streak, learnt_at)
    SELECT p_agents[n]::uuid, p_agent_pools[n], p_skills[n], p_whys[n], p_agent_numbers[n][1],
        p_agent_numbers[n][2], p_agent_numbers[n][3], to_timestamp(p_agent_numbers[n][4])
      FROM generate_series(1, cardinality(p_agents)) n
    ON CONFLICT (agent_id) DO UPDATE SET agent_type = excluded.agent_type, skill = excluded.skill,
      why = excluded.why, leases = excluded.leases, suspicion = excluded.suspicion,
      streak = excluded.streak, learnt_at = excluded.learnt_at;
  INSERT INTO outlook (agent_type, agent_id, story_type, odds, log_s, odds_doubt, log_s_doubt,
      match_odds, match_log_s, noise, retry_s, tokens, efficiency, leases, ratio, learnt_at)
    SELECT p_outlook_pools[n], p_outlook_agents[n]::uuid, p_outlook_kinds[n], x[n][1], x[n][2],
        x[n][3], x[n][4], x[n][5], x[n][6], x[n][7], x[n][8], x[n][9], x[n][10], x[n][11], x[n][12],
        to_timestamp(x[n][13])
      FROM generate_series(1, cardinality(p_outlook_pools)) n, (SELECT p_outlooks AS x) x
    ON CONFLICT (agent_type, agent_id, story_type) DO UPDATE SET odds = excluded.odds,
      log_s = excluded.log_s, odds_doubt = excluded.odds_doubt, log_s_doubt = excluded.log_s_doubt,
      match_odds = excluded.match_odds, match_log_s = excluded.match_log_s,
      noise = excluded.noise, retry_s = excluded.retry_s, tokens = excluded.tokens,
      efficiency = excluded.efficiency, leases = excluded.leases, ratio = excluded.ratio,
      learnt_at = excluded.learnt_at;
  INSERT INTO calibration AS t (agent_type, day, leases, within, squares, naive_squares, errors,
      naive_errors, gain, gain_squares, bin_leases, bin_predicted, bin_successes)
    SELECT p_tally_pools[n], p_tally_days[n]::date, x[n][1], x[n][2], x[n][3], x[n][4], x[n][5],
        x[n][6], x[n][7], x[n][8],
        ARRAY[x[n][9], x[n][10], x[n][11], x[n][12], x[n][13], x[n][14], x[n][15], x[n][16],
          x[n][17], x[n][18]]::int[],
        ARRAY[x[n][19], x[n][20], x[n][21], x[n][22], x[n][23], x[n][24], x[n][25], x[n][26],
          x[n][27], x[n][28]],
        ARRAY[x[n][29], x[n][30], x[n][31], x[n][32], x[n][33], x[n][34], x[n][35], x[n][36],
          x[n][37], x[n][38]]::int[]
      FROM generate_series(1, cardinality(p_tally_pools)) n, (SELECT p_tallies AS x) x
    ON CONFLICT (agent_type, day) DO UPDATE SET leases = t.leases + excluded.leases,
      within = t.within + excluded.within, squares = t.squares + excluded.squares,
      naive_squares = t.naive_squares + excluded.naive_squares, errors = t.errors + excluded.errors,
      naive_errors = t.naive_errors + excluded.naive_errors, gain = t.gain + excluded.gain,
      gain_squares = t.gain_squares + excluded.gain_squares,
      bin_leases = tenths_1(t.bin_leases, excluded.bin_leases),
      bin_predicted = tenths_1(t.bin_predicted, excluded.bin_predicted),
      bin_successes = tenths_1(t.bin_successes, excluded.bin_successes);
  RETURN true;
END $$
