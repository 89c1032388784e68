"""Requests as bytes, and answers read from bytes: pure functions without I/O."""
