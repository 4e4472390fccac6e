-- pick_1: choose and lock (FOR NO KEY UPDATE SKIP LOCKED) the agent for one request, in three tiers:
-- the preferred one; the one that remembers its cycle, project or paths; the strategy's best.
-- Null when none is free. Never waits. decision: {strategy, tier, score, parts, candidates}.
CREATE FUNCTION pick_1(r request, p policy_1, OUT chosen agent, OUT decision jsonb)
LANGUAGE plpgsql AS $$
DECLARE
  strategy text := coalesce(nullif(r.strategy, ''), p.strategy);
  warm uuid[];
  warmth float8[];
  bound uuid;
  c record;
BEGIN
  IF r.preferred_agent <> '' THEN
    SELECT * INTO chosen FROM agent a
      WHERE a.agent_id = r.preferred_agent AND a.agent_type = r.agent_type
        AND a.status IN ('busy', 'idle') AND a.health IN ('good', 'probation', 'unknown')
        AND a.load < a.max_concurrent AND fits_1(a, r)
      FOR NO KEY UPDATE SKIP LOCKED;
    IF chosen.id IS NOT NULL THEN
      decision := jsonb_build_object('strategy', strategy, 'tier', 'preferred', 'score', 1,
        'parts', '{}'::jsonb);
      RETURN;
    END IF;
  END IF;

  IF r.affinity = 'hard' THEN
    bound := bound_to_1(r);
    IF bound IS NOT NULL THEN
      SELECT * INTO chosen FROM agent a
        WHERE a.id = bound AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown')
          AND a.load < a.max_concurrent AND fits_1(a, r)
        FOR NO KEY UPDATE SKIP LOCKED;
      IF chosen.id IS NOT NULL THEN
        decision := jsonb_build_object('strategy', strategy, 'tier', 'affinity', 'score', 1,
          'parts', '{"bound": 1}'::jsonb);
      END IF;
      RETURN;
    END IF;
  ELSIF r.affinity = 'soft' THEN
    SELECT array_agg(w.agent_id ORDER BY w.warmth DESC), array_agg(w.warmth ORDER BY w.warmth DESC)
      INTO warm, warmth FROM warm_1(r, p.affinity_half_life_s) w;
    IF warmth[1] >= 0.25 THEN
      -- Only an agent that is at most half full: what it remembers is not worth a crowd.
      SELECT a.* INTO chosen
        FROM unnest(warm, warmth) w (id, warmth) JOIN agent a ON a.id = w.id
        WHERE w.warmth >= 0.25 AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown')
          AND a.load < a.max_concurrent AND a.load * 2 <= a.max_concurrent AND fits_1(a, r)
        ORDER BY w.warmth DESC LIMIT 1
        FOR NO KEY UPDATE OF a SKIP LOCKED;
      IF chosen.id IS NOT NULL THEN
        decision := jsonb_build_object('strategy', strategy, 'tier', 'affinity',
          'score', warmth[array_position(warm, chosen.id)],
          'parts', jsonb_build_object('affinity', warmth[array_position(warm, chosen.id)]));
        RETURN;
      END IF;
    END IF;
  END IF;

  SELECT * INTO c FROM candidates_1(r, strategy, warm, warmth);
  IF c.ids IS NULL THEN RETURN; END IF;
  FOR n IN 1..cardinality(c.ids) LOOP
    SELECT * INTO chosen FROM agent a
      WHERE a.id = c.ids[n] AND a.status IN ('busy', 'idle')
        AND a.health IN ('good', 'probation', 'unknown')
        AND a.load < a.max_concurrent AND fits_1(a, r)
      FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
      decision := c.cards[n] - 'agent_id' || jsonb_build_object(
        'strategy', strategy, 'tier', 'strategy', 'candidates', to_jsonb(c.cards[1:3]));
      RETURN;
    END IF;
  END LOOP;
  -- All of the best were just locked by others: take whoever is not.
  SELECT * INTO chosen FROM agent a
    WHERE a.agent_type = r.agent_type AND a.status IN ('busy', 'idle')
      AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
      AND fits_1(a, r)
    ORDER BY a.load, a.generality LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED;
  IF chosen.id IS NOT NULL THEN
    decision := jsonb_build_object('strategy', strategy, 'tier', 'contended',
      'score', -chosen.load - 0.001 * chosen.generality,
      'parts', jsonb_build_object('load', chosen.load, 'generality', chosen.generality),
      'candidates', to_jsonb(c.cards[1:3]));
  END IF;
END $$
