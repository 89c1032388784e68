"""Calls without threads rest on inner parts of grpcio; all that they do is in test_calls.py."""

from __future__ import annotations

from ladle.server.transport.grpcio import completion


def test_the_installed_grpcio_can_do_without_threads() -> None:
    assert completion.supported()
