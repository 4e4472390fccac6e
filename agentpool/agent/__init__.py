"""The runtime on a worker machine: takes offers, runs the work, reports, gives the lease back."""
