"""PredictionService.Regress: a number for each Example."""

from __future__ import annotations

import numpy as np

from ladle.protos import dtypes, wire
from ladle.protos.serving_pb import InferenceResult, Regression, RegressionResult
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Arrays, Signature
from ladle.server.rpc.inference.interpretation import (
    MESSAGES_AT_ONCE,
    ExamplesMethod,
    Interpretation,
)
from ladle.server.rpc.request import REGRESS_METHOD

_OUTPUT = "outputs"


def regress(*, check_method_names: bool) -> ExamplesMethod:
    """Return Regress; `check_method_names`: whether a signature has to be of its kind."""
    return ExamplesMethod(
        path="/tensorflow.serving.PredictionService/Regress",
        request_name="tensorflow.serving.RegressionRequest",
        interpretation=REGRESSION,
        check_method_names=check_method_names,
    )


def _outputs(signature: Signature) -> tuple[str, ...]:
    if len(signature.outputs) != 1:
        raise InvalidArgument(
            f"Expected one output Tensor. Signature {signature.name!r} has "
            f"{len(signature.outputs)}: {list(signature.outputs)}"
        )
    if _OUTPUT not in signature.outputs:
        raise InvalidArgument(
            f"No regression outputs found in SignatureDef: signature {signature.name!r} expected "
            f"to have the output {_OUTPUT!r}, has {list(signature.outputs)}"
        )
    return (_OUTPUT,)


def _result(outputs: Arrays, examples: int) -> list[wire.Piece]:
    values = outputs[_OUTPUT]
    if values.dtype != np.float32 or values.shape not in ((examples,), (examples, 1)):
        raise InvalidArgument(
            f"output {_OUTPUT!r}: expected float32 [{examples}] or [{examples}, 1], "
            f"the model gave {dtypes.name(dtypes.from_numpy(values.dtype))} {list(values.shape)}"
        )
    flat = values.ravel()
    return [
        _serialized(flat[start : start + MESSAGES_AT_ONCE].tolist())
        for start in range(0, examples, MESSAGES_AT_ONCE)
    ]


def _serialized(values: list[float]) -> bytes:
    return RegressionResult(regressions=[Regression(value=v) for v in values]).SerializeToString()


REGRESSION = Interpretation(
    kind="regression",
    method_name=REGRESS_METHOD,
    outputs=_outputs,
    result_field=InferenceResult.REGRESSION_RESULT_FIELD_NUMBER,
    result=_result,
)
