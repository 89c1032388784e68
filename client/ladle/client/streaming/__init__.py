"""Many predictions on one call, and one prediction in several messages."""
