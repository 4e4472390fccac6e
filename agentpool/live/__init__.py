"""The way of events: from the outbox to whoever waits for them."""
