-- agent_counted_1: the trigger that keeps capability_class.agents: its agents neither lost nor
-- retired. It runs only when an agent comes, goes, or changes its class.
CREATE FUNCTION agent_counted_1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  was bigint;
  becomes bigint;
BEGIN
  IF TG_OP <> 'INSERT' AND OLD.status NOT IN ('lost', 'retired') THEN was := OLD.capability_class; END IF;
  IF TG_OP <> 'DELETE' AND NEW.status NOT IN ('lost', 'retired') THEN becomes := NEW.capability_class; END IF;
  IF was IS NOT DISTINCT FROM becomes THEN RETURN NULL; END IF;
  PERFORM FROM capability_class c WHERE c.id IN (was, becomes) ORDER BY c.id FOR NO KEY UPDATE;
  UPDATE capability_class c SET agents = agents + CASE c.id WHEN becomes THEN 1 ELSE -1 END
    WHERE c.id IN (was, becomes);
  RETURN NULL;
END $$
