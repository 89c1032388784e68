"""`ladle predict`: a model's answers to the rows of files, of any size, as files."""
