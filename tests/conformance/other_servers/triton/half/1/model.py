"""The model `half` for Triton's Python backend: y = x / 2 + 2, and no NaN."""

from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]


class TritonPythonModel:
    """What the backend looks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        x = triton.get_input_tensor_by_name(request, "x").as_numpy()
        if np.isnan(x).any():
            error = triton.TritonError("no NaN", triton.TritonError.INVALID_ARG)
            return triton.InferenceResponse(error=error)
        return triton.InferenceResponse([triton.Tensor("y", (x / 2 + 2).astype(np.float32))])
