"""Which agent gets which work."""
