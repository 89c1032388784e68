"""The Open Inference Protocol's requests as bytes, and its answers read from bytes."""
