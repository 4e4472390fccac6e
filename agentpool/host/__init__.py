"""One installation on one machine: its embedded Postgres and the processes of `up`."""
