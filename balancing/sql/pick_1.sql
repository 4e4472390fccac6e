-- pick_1: choose and lock (FOR NO KEY UPDATE SKIP LOCKED) the agent for one request, in three tiers:
-- the preferred one; the one that remembers its cycle, project or paths; the strategy's best.
-- Null when none is free. Never waits. mine, held: agents that this transaction has locked, changed and
-- not written yet, and their ids; none for a preferred agent, hard affinity, best_of_k and bin_pack.
-- warm, warmth: of warm_1, the warmest first, if the caller knows; null: it is looked up here.
-- decision: {strategy, tier, score, parts, candidates}.
CREATE FUNCTION pick_1(
  r request, p policy_1, mine agent[], held uuid[], warm uuid[], warmth float8[],
  OUT chosen agent, OUT decision json
) LANGUAGE plpgsql AS $$
DECLARE
  strategy text := coalesce(nullif(r.strategy, ''), p.strategy);
  bound uuid;
  place int;
  cards card_1[];
  c card_1;
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
    IF warm IS NULL THEN
      SELECT array_agg(w.agent_id ORDER BY w.warmth DESC),
          array_agg(w.warmth ORDER BY w.warmth DESC)
        INTO warm, warmth FROM warm_1(r, p.affinity_half_life_s) w;
    END IF;
    FOR n IN 1..coalesce(cardinality(warm), 0) LOOP
      EXIT WHEN warmth[n] < 0.25;
      -- Only an agent that is at most half full: what it remembers is not worth a crowd.
      place := array_position(held, warm[n]);
      IF place IS NULL THEN
        SELECT * INTO chosen FROM agent a
          WHERE a.id = warm[n] AND a.status IN ('busy', 'idle')
            AND a.health IN ('good', 'probation', 'unknown')
            AND a.load < a.max_concurrent AND a.load * 2 <= a.max_concurrent AND fits_1(a, r)
          FOR NO KEY UPDATE SKIP LOCKED;
      ELSE
        chosen := mine[place];
        CONTINUE WHEN chosen.status NOT IN ('busy', 'idle')
          OR chosen.health NOT IN ('good', 'probation', 'unknown')
          OR chosen.load = chosen.max_concurrent OR chosen.load * 2 > chosen.max_concurrent
          OR NOT fits_1(chosen, r);
      END IF;
      IF chosen.id IS NOT NULL THEN
        decision := jsonb_build_object('strategy', strategy, 'tier', 'affinity',
          'score', warmth[n], 'parts', jsonb_build_object('affinity', warmth[n]));
        RETURN;
      END IF;
    END LOOP;
    chosen := NULL;
  END IF;

  cards := candidates_1(r, strategy, warm, warmth, mine, held);
  IF cards = '{}' THEN RETURN; END IF;
  FOREACH c IN ARRAY cards LOOP
    place := array_position(held, c.id);
    IF place IS NULL THEN
      SELECT * INTO chosen FROM agent a
        WHERE a.id = c.id AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown')
          AND a.load < a.max_concurrent AND fits_1(a, r)
        FOR NO KEY UPDATE SKIP LOCKED;
    ELSE
      chosen := mine[place];  -- it fits, or it were no candidate
    END IF;
    IF chosen.id IS NOT NULL THEN
      decision := concat('{"strategy": ', to_json(strategy), ', "tier": "strategy", "score": ',
        c.score, ', "parts": ', c.parts, ', "candidates": ', cards_1(cards, 3), '}');
      RETURN;
    END IF;
  END LOOP;
  -- All of the best were just locked by others: take whoever is not, first of those that come next.
  IF strategy NOT IN ('best_of_k', 'bin_pack') THEN
    FOREACH chosen IN ARRAY fitting_1(r, '{}',
      held || ARRAY(SELECT u.id FROM unnest(cards) u), 40)
    LOOP
      SELECT * INTO chosen FROM agent a
        WHERE a.id = chosen.id AND a.status IN ('busy', 'idle')
          AND a.health IN ('good', 'probation', 'unknown')
          AND a.load < a.max_concurrent AND fits_1(a, r)
        FOR NO KEY UPDATE SKIP LOCKED;
      EXIT WHEN chosen.id IS NOT NULL;
    END LOOP;
  END IF;
  IF chosen.id IS NULL THEN
    SELECT * INTO chosen FROM agent a
      WHERE a.agent_type = r.agent_type AND a.status IN ('busy', 'idle')
        AND a.health IN ('good', 'probation', 'unknown') AND a.load < a.max_concurrent
        AND fits_1(a, r) AND a.id <> ALL (held)
      ORDER BY a.load, a.generality LIMIT 1
      FOR NO KEY UPDATE SKIP LOCKED;
  END IF;
  IF chosen.id IS NULL THEN
    SELECT * INTO chosen FROM unnest(mine) m
      WHERE m.agent_type = r.agent_type AND m.status IN ('busy', 'idle')
        AND m.health IN ('good', 'probation', 'unknown') AND m.load < m.max_concurrent
        AND fits_1(m, r)
      ORDER BY m.load, m.generality LIMIT 1;
  END IF;
  IF chosen.id IS NOT NULL THEN
    decision := jsonb_build_object('strategy', strategy, 'tier', 'contended',
      'score', -chosen.load - 0.001 * chosen.generality,
      'parts', jsonb_build_object('load', chosen.load, 'generality', chosen.generality),
      'candidates', cards_1(cards, 3)::jsonb);
  END IF;
END $$
