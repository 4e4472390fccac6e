"""What `bench/balancing.py` is made of."""
