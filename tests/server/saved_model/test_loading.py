"""Which signatures of a SavedModel requests can call, without TensorFlow."""

from __future__ import annotations

import pytest

from ladle.protos.tensorflow_pb import SignatureDef
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import callable_signatures


class Float:
    """A tensor of a graph."""

    class dtype:
        as_datatype_enum = 1


class Graph:
    """A graph that has whatever tensor it is asked for."""

    def get_tensor_by_name(self, name: str) -> Float:
        return Float()


def test_a_default_that_cant_be_read_leaves_the_other_signatures_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = SignatureDef()
    good.inputs["x"].name = "x:0"
    good.outputs["y"].name = "y:0"
    bad = SignatureDef()
    bad.CopyFrom(good)
    bad.defaults["x"].dtype = 1
    bad.defaults["x"].tensor_shape.dim.add(size=2)
    bad.defaults["x"].tensor_content = b"\0\0\0"
    definitions = {"good": good.SerializeToString(), "bad": bad.SerializeToString()}

    signatures = callable_signatures(ServableId("m", 1), definitions, Graph())

    assert set(signatures) == {"good"}
    assert "signature=bad reason=the default of 'x' can't be read: " in caplog.text
