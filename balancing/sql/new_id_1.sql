-- new_id_1: an id that grows with time, a UUID of version 7 (RFC 9562): milliseconds since 1970, then
-- random bits, so that what is new is written at the end of an index (agentpool.registry.identity).
-- Of version 4 only the time is missing, and two bits of the version.
CREATE FUNCTION new_id_1() RETURNS uuid LANGUAGE sql VOLATILE AS $$
  SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(
    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
    52, 1), 53, 1), 'hex')::uuid
$$
