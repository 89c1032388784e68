"""How the columns of an input become the inputs of a model."""
