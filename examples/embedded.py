"""A prediction with nothing installed but the client: the model is a Python function.

    pip install ladle
    python embedded.py

The server runs in this process, on a free port of the loopback. Tests of an application can use it
in the place of a real one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ladle.client import Client
from ladle.client.testing import FunctionModel, FunctionServer


def brightness(inputs: Mapping[str, NDArray[np.float32]]) -> Mapping[str, ArrayLike]:
    """Return the mean of each image: float32 [batch, 8, 8] in, float32 [batch] out."""
    return {"mean": inputs["images"].mean(axis=(1, 2))}


def main() -> None:
    """Serve the function, ask for two predictions, and print them."""
    model = FunctionModel(
        brightness,
        inputs={"images": ("float32", (-1, 8, 8))},
        outputs={"mean": ("float32", (-1,))},
    )
    images = np.stack([np.zeros((8, 8), np.float32), np.ones((8, 8), np.float32)])
    with FunctionServer({"brightness": model}) as server, Client(server.address) as client:
        prediction = client.predict("brightness", images)
        print(f"version {prediction.version}: mean brightness {prediction['mean'].tolist()}")


if __name__ == "__main__":
    main()
