"""The parts of bench/claim.py: the stage it plays on, the load it makes, what it measures."""
