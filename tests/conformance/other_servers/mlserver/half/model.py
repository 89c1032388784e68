"""The model `half` for MLServer: y = x / 2 + 2, and no NaN.

Served by: mlserver start tests/conformance/other_servers/mlserver
"""

from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse


class Half(MLModel):  # type: ignore[misc]
    """What model-settings.json names."""

    async def load(self) -> bool:
        """Have nothing to load."""
        return True

    async def predict(self, payload: Any) -> Any:
        """Answer a request."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        if np.isnan(x).any():
            raise InferenceError("no NaN")
        output = NumpyCodec.encode_output("y", (x / 2 + 2).astype(np.float32))
        return InferenceResponse(model_name=self.name, outputs=[output])
