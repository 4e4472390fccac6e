-- keys_free_1: may this transaction take all of these lock keys? Never waits: a key that another
-- transaction is just taking counts as held. The advisory locks last to the end of the transaction,
-- and nobody inserts into lock_key without them, so a key seen free stays free until then.
CREATE FUNCTION keys_free_1(keys text[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  k text;
BEGIN
  FOREACH k IN ARRAY keys LOOP
    IF NOT pg_try_advisory_xact_lock(hashtextextended('lock_key:' || k, 0)) THEN RETURN false; END IF;
    IF EXISTS (SELECT FROM lock_key WHERE key = k) THEN RETURN false; END IF;
  END LOOP;
  RETURN true;
END $$
