"""Commands of scaling."""
