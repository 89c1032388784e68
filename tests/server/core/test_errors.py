"""Messages can be sent, whatever they quote."""

from __future__ import annotations

import os
from pathlib import Path

from ladle.server.core.errors import Code, NotFound, ServingError, Unavailable, without_folder
from ladle.store.url import parse_url


def test_what_is_no_text_in_a_quoted_name_is_escaped() -> None:
    path = os.fsdecode(b"/models/\xff")
    error = NotFound(f"{path}: there is no such folder")
    assert error.message == str(error) == r"/models/\udcff: there is no such folder"


def test_text_stays() -> None:
    assert ServingError("größe: 5").message == "größe: 5"


def test_callers_are_not_told_where_a_folder_lies() -> None:
    text = "/srv/models/m/1/a is cut short, under base path /srv/models/m"
    assert without_folder(text, Path("/srv/models/m")) == "m/1/a is cut short, under base path m"
    assert without_folder(text, Path("/")) == text
    url = parse_url("s3://bucket/models/m")
    assert without_folder(f"{url}/1 is not whole", url) == "m/1 is not whole"


def test_an_error_stays_what_it_is_but_for_the_folder() -> None:
    error = Unavailable("no room to load /srv/m/1")
    error.reason, error.retry_after_s = "memory", 2.0
    shown = error.for_callers(Path("/srv/m"))
    assert (shown.message, shown.code) == ("no room to load m/1", Code.UNAVAILABLE)
    assert (shown.reason, shown.retry_after_s) == ("memory", 2.0)
    assert shown.for_callers(Path("/srv/m")) is shown
