-- agent_triggers_1: who writes an agent need not know of its capability class. Claims change load,
-- used amounts and status (idle <> busy): the conditions keep them from paying for it.
CREATE TRIGGER agent_class BEFORE INSERT OR UPDATE OF agent_type, memory_mb, cpu_cores,
    token_budget, disk_space_mb, security_level, isolation_levels, tools, capabilities, labels
  ON agent FOR EACH ROW EXECUTE FUNCTION agent_class_1();
CREATE TRIGGER agent_counted AFTER INSERT OR DELETE ON agent
  FOR EACH ROW EXECUTE FUNCTION agent_counted_1();
CREATE TRIGGER agent_recounted AFTER UPDATE ON agent FOR EACH ROW
  WHEN (OLD.capability_class IS DISTINCT FROM NEW.capability_class
    OR (OLD.status IN ('lost', 'retired')) <> (NEW.status IN ('lost', 'retired')))
  EXECUTE FUNCTION agent_counted_1();
