"""One job done by many workers: a plan that never changes, and a commit for each of its tasks."""
