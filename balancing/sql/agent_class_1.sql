-- agent_class_1: the trigger that gives an agent its capability class, whoever writes the row:
-- agents of equal static profile share one. A profile seen for the first time makes a new class.
CREATE FUNCTION agent_class_1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  tools text[] := ARRAY(SELECT DISTINCT x FROM unnest(NEW.tools) x ORDER BY x);
  capabilities text[] := ARRAY(SELECT DISTINCT x FROM unnest(NEW.capabilities) x ORDER BY x);
  profile text := md5(concat_ws('|', NEW.agent_type, NEW.memory_mb, NEW.cpu_cores,
    NEW.token_budget, NEW.disk_space_mb, NEW.security_level, NEW.isolation_levels,
    tools, capabilities, NEW.labels));
BEGIN
  NEW.generality := least(50, cardinality(tools) + cardinality(capabilities) + NEW.security_level
    + (SELECT max(x) FROM unnest(NEW.isolation_levels) x));
  SELECT id INTO NEW.capability_class FROM capability_class WHERE digest = profile;
  IF FOUND THEN RETURN NEW; END IF;
  INSERT INTO capability_class (agent_type, memory_mb, cpu_cores, token_budget, disk_space_mb,
      security_level, isolation_levels, tools, capabilities, labels, digest)
    VALUES (NEW.agent_type, NEW.memory_mb, NEW.cpu_cores, NEW.token_budget, NEW.disk_space_mb,
      NEW.security_level, NEW.isolation_levels, tools, capabilities, NEW.labels, profile)
    ON CONFLICT (digest) DO NOTHING;
  SELECT id INTO NEW.capability_class FROM capability_class WHERE digest = profile;
  RETURN NEW;
END $$
