"""The reader of text format, compared with protobuf's own writer."""

from __future__ import annotations

from contextlib import suppress

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from steps import lines_run

from ladle.protos.inference_pb import ModelConfig, ModelInput
from ladle.server.core.errors import InvalidArgument
from ladle.server.settings.text_fields import Fields, Scalar, read_fields

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)


@given(
    st.lists(st.tuples(TEXTS, st.lists(st.integers(-1, 1 << 40), max_size=3)), max_size=3),
    TEXTS,
    st.integers(0, (1 << 31) - 1),
    st.booleans(),
)
def test_what_protobuf_writes_is_read(
    inputs: list[tuple[str, list[int]]], name: str, size: int, on_one_line: bool
) -> None:
    config = ModelConfig(name=name, max_batch_size=size)
    for of, dims in inputs:
        config.input.append(ModelInput(name=of, dims=dims))
    config.parameters[name].string_value = name
    fields = read_fields(text_format.MessageToString(config, as_utf8=True, as_one_line=on_one_line))
    assert fields.text("name") == name
    assert fields.integer("max_batch_size") in (size, None if size == 0 else size)
    assert [(f.text("name"), f.integers("dims", least=-1)) for f in fields.messages("input")] == [
        (of, tuple(dims)) for of, dims in inputs
    ]
    (parameter,) = fields.messages("parameters")
    value = parameter.message("value")
    assert value is not None
    assert value.text("string_value") == parameter.text("key") == name


def test_every_way_to_write_it_is_read() -> None:
    fields = read_fields(
        """
        # a comment
        name: 'a' "b\\n\\x41\\101"; sizes: [ 4, 8 ], sizes: 16
        input [ { name: "x" dims: [] }, < name: "y" > ]
        output: { name: "z" } flag: true
        [type.googleapis.com/some.Message] { a: -1.5e3 }
        """
    )
    assert fields.text("name") == "ab\nAA"
    assert fields.integers("sizes") == (4, 8, 16)
    assert [f.text("name") for f in fields.messages("input")] == ["x", "y"]
    assert fields.messages("output")[0] == Fields({"name": (Scalar("z", True),)})
    assert fields.text("flag") == "true"
    assert fields.messages("[type.googleapis.com/some.Message]")[0].text("a") == "-1.5e3"
    assert read_fields("") == Fields({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb {", "line 2: expected the name of a field, got the end"),
        ("a", 'line 1: expected ":" or "{", got the end'),
        ("a: }", "line 1: expected a value, got '}'"),
        ("a: [ 1 2 ]", 'line 1: expected "," or "]", got \'2\''),
        ('a: "b', "line 1: expected a field, got '\"b'"),
        ("}", "line 1: expected the name of a field, got '}'"),
        ("a: 1 @", "line 1: expected a field, got '@'"),
        ("a {" * 40, "line 1: expected at most 32 messages in each other"),
        ("[a", 'line 1: expected "]", got the end'),
    ],
)
def test_what_is_no_text_format_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_fields(text)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n: x", "n: expected a whole number, got x"),
        ('n: "1"', "n: expected a whole number, got 1"),
        ("n: 1.5", "n: expected a whole number, got 1.5"),
        ("n: -1", "n: expected 0 or more, got -1"),
        ("n { }", "n: expected a value, got { ... }"),
        ("n: 99999999999999999999", "n: expected a whole number"),
    ],
)
def test_a_field_of_another_kind_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_fields(text).integer("n")
    assert message in caught.value.message


def test_a_value_where_a_message_is_expected_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"n: expected .* got a value"):
        read_fields("n: 1").messages("n")


@given(st.text(alphabet="ab:{}<>[],;\"'#\\\n 1-", max_size=60) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidArgument):
        read_fields(text)


@pytest.mark.parametrize("piece", ["a: 1 ", "a { b: 'c' } ", "a: [1, 2] ", "#x\n", '"', "a {"])
def test_steps_grow_with_the_text(piece: str) -> None:
    def read(text: str) -> None:
        with suppress(InvalidArgument):
            read_fields(text)

    assert lines_run(read, piece * 400) < 2.5 * lines_run(read, piece * 200)
