"""What changes who works for whom; each function is one door's one call."""
