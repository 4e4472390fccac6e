"""One database is migrated for all test processes of a run; each makes its own as a copy of it."""

import contextlib

from django.db import connection


def share(name):
    """
    Let this process's test database be a copy of `name`, which the first process to ask makes.

    Waits while another makes it: the lock is held by a connection that ends with the making.
    """
    with connection._nodb_cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtext(%s))", [name])
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        if cursor.fetchone() is None:
            with _named(name):
                connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    connection.settings_dict["TEST"]["TEMPLATE"] = name


@contextlib.contextmanager
def _named(name):
    """Make the next test database under this name, and leave it: one in use cannot be copied."""
    here = connection.settings_dict
    own, own_test = here["NAME"], here["TEST"]["NAME"]
    here["TEST"]["NAME"] = name
    try:
        yield
    finally:
        connection.close()
        here["NAME"], here["TEST"]["NAME"] = own, own_test
