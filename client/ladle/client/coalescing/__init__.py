"""Concurrent predictions sent together in one request."""
