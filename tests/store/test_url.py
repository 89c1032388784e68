from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.store.url import StoreUrl, is_url, parse_url


@pytest.mark.parametrize(
    ("text", "bucket", "path"),
    [
        ("s3://models/digits", "models", "digits"),
        ("gs://b.example.com/a/b c/", "b.example.com", "a/b c"),
        ("az://container", "container", ""),
    ],
)
def test_parts_of_a_url(text: str, bucket: str, path: str) -> None:
    url = parse_url(text)
    assert (url.bucket, url.path) == (bucket, path)
    assert str(url) == text.rstrip("/")
    assert parse_url(str(url / "3" / "x")).path == f"{path}/3/x".strip("/")
    assert (url / "3").parent == url
    assert (url / "3").name == "3"


@pytest.mark.parametrize(
    "text",
    [
        "s3://KEY:SECRET@bucket/x",
        "az://c/x?sig=SECRET",
        "s3://bucket/x#SECRET",
        "http://host/SECRET",
        "s3:///SECRET/../..",
        "SECRET://x",
        "s3://KEY:SEC/RET@bucket/x",  # secrets of AWS hold slashes
        "s3://KEY:SECRET",
        "s3://KEY%3ASECRET/x",
    ],
)
def test_what_may_be_a_secret_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected s3://BUCKET/PATH") as refused:
        parse_url(text)
    if "/../" not in text and not text.startswith("SECRET"):
        assert "SEC" not in str(refused.value)


@pytest.mark.parametrize("text", ["s3://KEY/SECRET@bucket//x", "s3://KEY/SECRET@bucket/\n"])
def test_a_path_that_may_hold_a_secret_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="expected a path") as refused:
        parse_url(text)
    assert "SECRET" not in str(refused.value)


def test_a_path_of_no_utf8_is_refused_in_the_words_of_paths() -> None:
    with pytest.raises(ValueError, match="expected a path of at most"):
        parse_url("s3://b/\udcff")


@pytest.mark.parametrize("text", ["s3://b/a//b", "s3://b/../c", "s3://b/a\nb", "s3://b/\\x"])
def test_paths_that_mean_something_else_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a path"):
        parse_url(text)


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_one_clear_line(text: str) -> None:
    problem = ""
    try:
        url = parse_url(f"s3://{text}")
    except ValueError as error:
        problem = str(error)
    else:
        assert parse_url(str(url)) == url
        assert isinstance(url, StoreUrl)
    assert "\n" not in problem


@pytest.mark.parametrize("text", ["s3:/models/m", "gs:models", "az:", "s3:m/1"])
def test_a_url_without_both_slashes_is_no_folder(text: str) -> None:
    """`ladle export s3:/models/m` published into a folder of that name."""
    assert is_url(text)
    with pytest.raises(ValueError, match=r"expected s3://BUCKET/PATH.*, got no '://'"):
        parse_url(text)


def test_folders_are_no_urls() -> None:
    assert not is_url("/models/digits")
    assert not is_url("./s3:/models")
    assert not is_url("s3")
    assert is_url("hdfs://x")
