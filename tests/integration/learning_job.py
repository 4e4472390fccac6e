"""Learning as the job does it, for tests in which no pulse numbers the events."""

from django.db import connection

from balancing import jobs


def learn():
    """Learn as the job does, after the relay has numbered what happened."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH b AS (SELECT id, row_number() OVER (ORDER BY id) AS n FROM event"
            " WHERE seq IS NULL), top AS (SELECT coalesce(max(seq), 0) AS seq FROM event)"
            " UPDATE event e SET seq = top.seq + b.n FROM b, top WHERE b.id = e.id"
        )
    return jobs.learn()["learnt"]
