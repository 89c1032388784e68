from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export import Dataset, TrainingOptions
from ladle.export.card import provenance, write_card
from ladle.protos.model_card import ModelCard


def test_provenance_tells_how_to_train_the_version_again(arrays: dict[str, NDArray[Any]]) -> None:
    dataset = Dataset.from_arrays("small", arrays)
    told = provenance("mlp", TrainingOptions(batch_size=4, seed=7), dataset)
    assert told["recipe"] == "mlp"
    assert told["training"] == {"epochs": 50, "batch_size": 4, "seed": 7}
    assert told["data"] == {
        "name": "small",
        "fingerprint": dataset.fingerprint,
        "training_images": 12,
        "held_out_images": 6,
    }
    assert told["packages"]["numpy"] == np.__version__
    age = datetime.now(timezone.utc) - datetime.fromisoformat(told["created"])
    assert age < timedelta(minutes=1)
    json.dumps(told)


def test_the_card_lies_where_servers_look_for_it(tmp_path: Path) -> None:
    card = ModelCard(labels=("cat", "dog"), metrics={"accuracy": 0.5})
    write_card(card, tmp_path)
    assert ModelCard.from_json((tmp_path / "assets.extra" / "ladle.json").read_bytes()) == card
