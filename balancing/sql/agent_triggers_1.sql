-- agent_triggers_1: who writes an agent need not know of its capability class. Claims change load,
-- used amounts and status (idle <> busy) and pay nothing for it: every other change of an agent
-- raises its generation, too.
CREATE TRIGGER agent_class BEFORE INSERT OR UPDATE OF agent_type, memory_mb, cpu_cores,
    token_budget, disk_space_mb, security_level, isolation_levels, tools, capabilities, labels
  ON agent FOR EACH ROW EXECUTE FUNCTION agent_class_1();
CREATE TRIGGER agent_counted AFTER INSERT OR DELETE ON agent
  FOR EACH ROW EXECUTE FUNCTION agent_counted_1();
CREATE TRIGGER agent_recounted AFTER UPDATE OF generation, capability_class ON agent
  FOR EACH ROW EXECUTE FUNCTION agent_counted_1();
