-- policy_of_1: the policy for a claim of this pool by this project; null when there is no pool.
-- Reading resource_limit holds its table lock (ACCESS SHARE) to the end of the transaction, which
-- is what limit_set_1 waits for. Volatile, and the lock in a statement of its own: the read needs a
-- snapshot that is newer than the lock, or who waited here for a new limit would not see it.
CREATE FUNCTION policy_of_1(p_type text, p_project text) RETURNS policy_1 LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM resource_limit LIMIT 1;
  RETURN policy_in_1(p_type, p_project, EXISTS (SELECT FROM resource_limit));
END $$
