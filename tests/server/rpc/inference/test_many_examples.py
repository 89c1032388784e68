"""That results of very many Examples are made in pieces, so that other callers' threads go on."""

from __future__ import annotations

import numpy as np
import pytest

from ladle.protos import wire
from ladle.protos.ladle_pb import SerializedInput
from ladle.protos.serving_pb import ClassificationResult, RegressionResult
from ladle.server.rpc.inference.classify import CLASSIFICATION
from ladle.server.rpc.inference.examples import read_examples
from ladle.server.rpc.inference.interpretation import MESSAGES_AT_ONCE
from ladle.server.rpc.inference.regress import REGRESSION

ROWS = 2 * MESSAGES_AT_ONCE + 1
SCORES = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)


def test_values_are_serialized_some_at_a_time() -> None:
    pieces = REGRESSION.result({"outputs": SCORES[:, 1]}, ROWS)

    sizes = [len(RegressionResult.FromString(bytes(piece)).regressions) for piece in pieces]
    assert sizes == [MESSAGES_AT_ONCE, MESSAGES_AT_ONCE, 1]
    whole = RegressionResult.FromString(wire.join(pieces))
    assert [r.value for r in whole.regressions] == SCORES[:, 1].tolist()


@pytest.mark.parametrize("alias", ["scores", "classes"])
def test_classes_are_serialized_some_at_a_time(alias: str) -> None:
    given = SCORES if alias == "scores" else SCORES.astype(int).astype("S").astype(object)
    pieces = CLASSIFICATION.result({alias: given}, ROWS)

    for piece in pieces:
        listed = ClassificationResult.FromString(bytes(piece)).classifications
        assert sum(len(row.classes) for row in listed) <= MESSAGES_AT_ONCE
    whole = ClassificationResult.FromString(wire.join(pieces)).classifications
    if alias == "scores":
        assert [[c.score for c in row.classes] for row in whole] == SCORES.tolist()
    else:
        expected = [[str(int(v)) for v in row] for row in SCORES]
        assert [[c.label for c in row.classes] for row in whole] == expected


def test_rows_of_more_classes_than_that_are_serialized_one_by_one() -> None:
    wide = np.zeros((2, MESSAGES_AT_ONCE + 1), np.float32)
    assert len(CLASSIFICATION.result({"scores": wide}, 2)) == 2


def test_rows_without_classes_are_rows() -> None:
    (piece,) = CLASSIFICATION.result({"scores": np.zeros((3, 0), np.float32)}, 3)
    assert len(ClassificationResult.FromString(bytes(piece)).classifications) == 3


def test_examples_are_taken_from_a_message_in_order() -> None:
    sent = SerializedInput()
    rows = [str(i).encode() for i in range(ROWS)]
    sent.example_list.examples.extend(rows)
    assert read_examples(sent).tolist() == rows

    with_context = SerializedInput()
    with_context.example_list_with_context.context = b"c"
    with_context.example_list_with_context.examples.extend(rows)
    assert read_examples(with_context).tolist() == [b"c" + row for row in rows]
