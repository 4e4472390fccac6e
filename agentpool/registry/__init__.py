"""The floor: all tables, and facts about agents."""
