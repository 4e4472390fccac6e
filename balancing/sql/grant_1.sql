-- grant_1: give one slot of a locked agent to a request: take limits and lock keys, return the lease,
-- which is the caller's to insert (store_granted_1, granted_from_queue_1), as are the request and
-- the agent (taken_1).
-- The caller holds the agent's row lock and, for a request that is already stored, that one's too.
-- unwritten: leases that this transaction has granted and not inserted yet; their slots are taken.
-- Memory and CPU are optimised in the seed's three bands (formulas: balancing/grants.py). l.id is
-- null when the limits do not allow it now; then nothing has changed.
-- ahead: what its caller has taken from the limits beforehand, for this and others; as much of it as
-- this lease reserves is gone from it afterwards. Null: nothing has been.
-- The fencing token is drawn here, after agent and lock keys are held, so that the later holder
-- always has the larger token.
CREATE FUNCTION grant_1(
  r request, a agent, p policy_1, decision json, p_exact boolean, t timing_1, unwritten lease[],
  INOUT ahead amounts_1, OUT l lease
) LANGUAGE plpgsql AS $$
DECLARE
  at timestamptz := clock_timestamp();
  least_memory bigint := least_memory_1(r);
  least_cpu numeric := least_cpu_1(r);
  share_memory bigint := least(a.memory_mb / a.max_concurrent, p.ceiling_memory_mb);
  share_cpu numeric := least(trunc(a.cpu_cores / a.max_concurrent, 3), p.ceiling_cpu_cores);
  used_memory float8;
  used_cpu float8;
  network_mbps float8 := 10;
  kept resource_limit;
BEGIN
  l.memory_mb := r.memory_mb;
  l.cpu_cores := r.cpu_cores;
  -- Utilisation only matters where there is something to give or to save.
  IF share_memory > r.memory_mb OR least_memory < r.memory_mb
      OR share_cpu > r.cpu_cores OR least_cpu < r.cpu_cores THEN
    used_memory := coalesce(a.used_memory_mb::float8 / nullif(a.memory_mb, 0), 1);
    used_cpu := coalesce((a.used_cpu_cores / nullif(a.cpu_cores, 0))::float8, 1);
    IF p.is_capacity_limited THEN
      SELECT greatest(used_memory, max(x.memory)), greatest(used_cpu, max(x.cpu))
        INTO used_memory, used_cpu FROM (
          SELECT 1 - (sum(s.memory_mb) + coalesce(ahead.memory_mb, 0))::float8
                / nullif(x.memory_mb, 0),
              1 - (sum(s.cpu_cores) + coalesce(ahead.cpu_cores, 0))::float8
                / nullif(x.cpu_cores, 0)::float8
            FROM unnest(p.limits) x JOIN limit_shard s ON s.resource_limit_id = x.id
            GROUP BY x.id, x.memory_mb, x.cpu_cores) x (memory, cpu);
    END IF;
    l.memory_mb := CASE
      WHEN used_memory < 0.6 THEN
        greatest(r.memory_mb, least(r.memory_mb::bigint * 3 / 2, share_memory))
      WHEN used_memory < 0.8 THEN r.memory_mb ELSE least_memory END;
    l.cpu_cores := CASE
      WHEN used_cpu < 0.6 THEN
        greatest(r.cpu_cores, least(trunc(r.cpu_cores * 1.5, 3), share_cpu))
      WHEN used_cpu < 0.8 THEN r.cpu_cores ELSE least_cpu END;
  END IF;
  l.memory_mb := greatest(least_memory,
    least(l.memory_mb, a.memory_mb - a.used_memory_mb, p.ceiling_memory_mb));
  l.cpu_cores := greatest(least_cpu,
    least(l.cpu_cores, a.cpu_cores - a.used_cpu_cores, p.ceiling_cpu_cores));

  IF ahead.memory_mb >= l.memory_mb AND ahead.cpu_cores >= l.cpu_cores
      AND ahead.token_budget >= r.token_budget AND ahead.disk_space_mb >= r.disk_space_mb
      AND ahead.network_bandwidth_mbps >= network_mbps THEN
    ahead.memory_mb := ahead.memory_mb - l.memory_mb;
    ahead.cpu_cores := ahead.cpu_cores - l.cpu_cores;
    ahead.token_budget := ahead.token_budget - r.token_budget;
    ahead.disk_space_mb := ahead.disk_space_mb - r.disk_space_mb;
    ahead.network_bandwidth_mbps := ahead.network_bandwidth_mbps - network_mbps;
  ELSIF p.limits IS NOT NULL AND NOT limits_take_1(p.limits, r.id, p_exact, l.memory_mb,
      l.cpu_cores, r.token_budget, r.disk_space_mb, network_mbps) THEN
    -- Not with more than it needs; perhaps with the least that it can live with.
    l.memory_mb := least_memory;
    l.cpu_cores := least_cpu;
    IF NOT p_exact OR NOT limits_take_1(p.limits, r.id, p_exact, l.memory_mb, l.cpu_cores,
        r.token_budget, r.disk_space_mb, network_mbps) THEN
      l := NULL;
      RETURN;
    END IF;
  END IF;

  l.id := new_id_1();
  l.fencing_token := nextval('lease_fencing_token_seq');
  -- What else is kept for it, without ever waiting; reserve_1 takes back the rest.
  IF r.reserved_agent <> a.id THEN
    UPDATE agent SET reserved_for = NULL WHERE id = (SELECT x.id FROM agent x
      WHERE x.id = r.reserved_agent AND x.reserved_for = r.id FOR NO KEY UPDATE SKIP LOCKED);
  END IF;
  IF p.limits IS NOT NULL THEN
    FOREACH kept IN ARRAY p.limits LOOP
      CONTINUE WHEN kept.reserved_for IS DISTINCT FROM r.id;
      UPDATE resource_limit SET reserved_for = NULL WHERE id IN (SELECT x.id FROM resource_limit x
        WHERE x.reserved_for = r.id FOR NO KEY UPDATE SKIP LOCKED);
      EXIT;
    END LOOP;
  END IF;

  l.slot := 1;
  IF a.load > 0 THEN
    SELECT min(s) INTO l.slot FROM generate_series(1, a.max_concurrent) s
      WHERE NOT EXISTS (SELECT FROM lease o
        WHERE o.agent_id = a.id AND o.slot = s AND o.status IN ('active', 'offered'))
      AND NOT EXISTS (SELECT FROM unnest(unwritten) o WHERE o.agent_id = a.id AND o.slot = s);
  END IF;
  l.request_id := r.id;
  l.agent_id := a.id;
  l.incarnation := a.incarnation;
  l.agent_type := r.agent_type;
  l.project := r.project;
  l.cycle_id := r.cycle_id;
  l.phase := r.phase;
  l.attempt := r.attempts + 1;
  l.status := CASE WHEN r.payload IS NULL THEN 'active' ELSE 'offered' END;
  l.token_budget := r.token_budget;
  l.disk_space_mb := r.disk_space_mb;
  l.network_bandwidth_mbps := network_mbps;
  l.network := CASE WHEN r.network_access THEN coalesce(p.network, 0) ELSE 0 END;
  l.decision := decision;
  l.offered_at := CASE WHEN r.payload IS NOT NULL THEN at END;
  l.acquired_at := at;
  l.expires_at := at + make_interval(secs => least(r.duration_limit_s,
    CASE WHEN r.payload IS NULL THEN t.run_lease_s ELSE t.offer_s END));
  l.hard_end_at := at + make_interval(secs => r.duration_limit_s);
  l.waited_s := extract(epoch FROM at - r.queued_at);
  l.charged_s := coalesce(r.expected_duration_s, p.mean_service_s);
  l.outcome := '';
  l.error := '';
  l.progress_counter := 0;
  l.progress_phase := '';
  l.progress_note := '';
  l.measured_memory_mb := 0;
  l.peak_memory_mb := 0;
  l.measured_cpu_cores := 0;
  l.cpu_seconds := 0;
  l.measured_disk_space_mb := 0;
  l.tokens_in := 0;
  l.tokens_out := 0;
  l.cost_usd := 0;
  IF r.lock_keys <> '{}' THEN
    INSERT INTO lock_key (key, lease_id) SELECT DISTINCT k, l.id FROM unnest(r.lock_keys) k;
  END IF;
END $$
