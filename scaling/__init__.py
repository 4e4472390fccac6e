"""How many agents there should be."""
