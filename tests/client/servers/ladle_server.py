"""Ladle's server in a process of its own, on a model that needs no TensorFlow.

Usage: ladle_server.py PORT VERSION FOLDER, where port 0 stands for a free one.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from client.fakes import image_signature
from fakes import FakeServable, spec

from ladle.protos.model_card import ModelCard, Normalization
from ladle.server import Config, Server
from ladle.server.core.servable import Arrays, Signature
from ladle.server.core.servable_id import ServableId


def load(servable_id: ServableId, path: Path) -> FakeServable:
    card = ModelCard(normalization=Normalization(divisor=255))
    signature = Signature("serving_default", {"images": spec(-1, 2, 2)}, {"scores": spec(-1, 2)})
    servable = FakeServable(run, (signature,), card.to_json())
    servable.signature_defs["serving_default"] = image_signature().SerializeToString()
    return servable


def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
    mean = inputs["images"].mean(axis=(1, 2))
    return {"scores": np.stack([mean, 1 - mean], axis=1)}


def main() -> None:
    port, version, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    (folder / "m" / version).mkdir(parents=True, exist_ok=True)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    config = Config(port=port or None, model_name="m", model_base_path=str(folder / "m"))
    server = Server(config, load=load)
    server.start()
    print(f"127.0.0.1:{server.addresses[0].rpartition(':')[2]}", flush=True)
    stopping.wait()
    server.stop()


if __name__ == "__main__":
    main()
