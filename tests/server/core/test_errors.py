"""Messages can be sent, whatever they quote."""

from __future__ import annotations

import os

from ladle.server.core.errors import NotFound, ServingError


def test_what_is_no_text_in_a_quoted_name_is_escaped() -> None:
    path = os.fsdecode(b"/models/\xff")
    error = NotFound(f"{path}: there is no such folder")
    assert error.message == str(error) == r"/models/\udcff: there is no such folder"


def test_text_stays() -> None:
    assert ServingError("größe: 5").message == "größe: 5"
