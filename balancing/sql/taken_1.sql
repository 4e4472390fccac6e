-- taken_1: an agent as it is with one lease more. Writes nothing (agents_write_1 does).
CREATE FUNCTION taken_1(a agent, l lease) RETURNS agent LANGUAGE plpgsql AS $$
BEGIN
  a.load := a.load + 1;
  IF a.status = 'idle' THEN a.status := 'busy'; END IF;
  a.used_memory_mb := a.used_memory_mb + l.memory_mb;
  a.used_cpu_cores := a.used_cpu_cores + l.cpu_cores;
  a.used_token_budget := a.used_token_budget + l.token_budget;
  a.used_disk_space_mb := a.used_disk_space_mb + l.disk_space_mb;
  a.last_token := l.fencing_token;
  a.reserved_for := NULL;
  RETURN a;
END $$
