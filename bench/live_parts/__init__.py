"""Parts of the benches of what is live: bench/heartbeat.py and bench/push.py."""
