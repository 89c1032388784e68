"""Models with several inputs or outputs: their data, their training and their signatures."""
