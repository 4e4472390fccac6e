-- store_granted_1: write requests that were granted as they arrived, their leases, and the events.
-- names: the external ids of the agents, in the order of the leases.
CREATE FUNCTION store_granted_1(rs request[], ls lease[], names text[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO request SELECT (r).* FROM unnest(rs) r;
  INSERT INTO lease SELECT (l).* FROM unnest(ls) l;
  PERFORM granted_events_1(ls, names, false);
END $$
