"""The output folder: answers in the order of their rows, in shards that a manifest counts."""
