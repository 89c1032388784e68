"""That Examples which are never parsed come out as they would have been parsed and merged."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.protos.ladle_pb import ExamplesRequest, SerializedInput, TasksRequest
from ladle.protos.serving_pb import ClassificationRequest, Input, MultiInferenceRequest
from ladle.protos.tensorflow_pb import Example
from ladle.server.core.errors import InvalidArgument
from ladle.server.rpc.inference.examples import read_examples
from ladle.server.rpc.request import parse

in_time = settings(deadline=None)

NAMES = st.text(max_size=3)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "bytes_list": st.binary(max_size=5),
    "float_list": st.floats(width=32, allow_nan=False),
    "int64_list": st.integers(-(1 << 63), (1 << 63) - 1),
}


@st.composite
def examples(draw: st.DrawFn) -> Example:
    made = Example()
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        kind = draw(st.sampled_from(sorted(KINDS)))
        values = draw(st.lists(KINDS[kind], max_size=3))
        getattr(made.features.feature[name], kind).value.extend(values)
    return made


def read(sent: Input) -> list[Example]:
    request = ClassificationRequest(input=sent)
    received = ExamplesRequest.FromString(request.SerializeToString())
    return [Example.FromString(data) for data in read_examples(received.input)]


@in_time
@given(st.lists(examples(), min_size=1, max_size=4))
def test_a_list_is_read_as_it_was_sent(sent: list[Example]) -> None:
    message = Input()
    message.example_list.examples.extend(sent)
    assert read(message) == sent


@in_time
@given(examples(), st.lists(examples(), min_size=1, max_size=4))
def test_a_context_is_merged_as_protobuf_merges(context: Example, sent: list[Example]) -> None:
    message = Input()
    message.example_list_with_context.context.CopyFrom(context)
    message.example_list_with_context.examples.extend(sent)
    expected = []
    for example in sent:
        merged = Example()
        merged.CopyFrom(context)
        for name, feature in example.features.feature.items():
            merged.features.feature[name].CopyFrom(feature)
        merged.features.SetInParent()
        expected.append(merged.features.feature)
    assert [dict(e.features.feature) for e in read(message)] == [dict(e) for e in expected]


@in_time
@given(st.lists(st.sampled_from(["example_list", "example_list_with_context"]), max_size=3))
def test_the_kind_that_was_set_last_counts(kinds: list[str]) -> None:
    """As for any oneof on the wire, which both messages have to read alike."""
    data = b"".join(
        Input(**{kind: {"examples": [Example()]}}).SerializeToString()  # type: ignore[arg-type]
        for kind in kinds
    )
    both = Input.FromString(data), SerializedInput.FromString(data)
    assert both[0].WhichOneof("kind") == both[1].WhichOneof("kind")
    assert both[0].WhichOneof("kind") == (kinds[-1] if kinds else None)


@pytest.mark.parametrize("message_class", [ExamplesRequest, TasksRequest])
@in_time
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(message_class: Any, data: bytes) -> None:
    with suppress(InvalidArgument):
        rows = read_examples(parse(message_class, data).input)
        # Nothing has come from nowhere: an Example and its context lay in the request.
        assert all(isinstance(row, bytes) and len(row) <= len(data) for row in rows)


def test_requests_are_read_as_upstream_frames_them() -> None:
    request = MultiInferenceRequest()
    request.tasks.add(method_name="m").model_spec.name = "n"
    request.input.example_list.examples.append(Example())
    received = TasksRequest.FromString(request.SerializeToString())
    assert list(received.tasks) == list(request.tasks)
    assert list(read_examples(received.input)) == [b""]
