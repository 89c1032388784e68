"""What a caller passes in, made into the tensors that a signature declares; without I/O."""
