"""What an export reaches and takes on MNIST, beside the bare Keras fit of the same model.

    benchmarks/export.py mnist.npz

Each runs in a process of its own; the wall time of an export is that of the whole command, imports,
checks and publishing included, and that of the bare fit is fit() alone. Exit status 1 if an
accuracy or the time is not what it has to be. On a machine with other work the CPU seconds tell
more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Per recipe: the epochs, and the least accuracy after them.
RECIPES = {"mlp": (5, 0.975), "lenet": (10, 0.985)}
LENET_PARAMETERS = 60_074
LARGEST_RATIO, SPARE_S = 1.3, 20.0

_BARE_FIT = """
import sys, time
import numpy as np
import keras
from ladle.export.training.options import TrainingOptions
from ladle.export.training.compilation import make_optimizer
from ladle.export.training.recipes import RECIPES
with np.load(sys.argv[1]) as data:
    x, y = data["x_train"].astype("float32") / 255, data["y_train"]
epochs = int(sys.argv[2])
model = RECIPES["mlp"].build(x.shape[1:], 10)
optimizer = make_optimizer(TrainingOptions(), epochs * -(-len(x) // 128))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer, loss, metrics=["accuracy"])
started, cpu = time.monotonic(), time.process_time()
model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
print(time.monotonic() - started, time.process_time() - cpu)
"""


def main() -> int:
    """Print a line for each recipe and one for the time; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="mnist.npz, in the layout of keras.datasets")
    parser.add_argument("--only", choices=RECIPES, help="export with this recipe alone")
    arguments = parser.parse_args()
    data = str(arguments.data.resolve())
    good = True
    with tempfile.TemporaryDirectory() as folder:
        fitted = _run("-c", _BARE_FIT, data, str(RECIPES["mlp"][0])).splitlines()[-1]
        bare_s, bare_cpu_s = map(float, fitted.split())
        for recipe, (epochs, least) in RECIPES.items():
            if arguments.only not in (None, recipe):
                continue
            base_path = Path(folder, recipe)
            options = ["--data", data, "--recipe", recipe, f"--epochs={epochs}", "--json"]
            started, cpu_s = time.monotonic(), _cpu_s()
            told = json.loads(_run("-m", "ladle.cli", "export", str(base_path), *options))
            took_s, cpu_s = time.monotonic() - started, _cpu_s() - cpu_s
            card = json.loads((base_path / "1/assets.extra/ladle.json").read_text())
            parameters = card["provenance"]["parameters"]
            print(
                f"{recipe}: accuracy {told['accuracy']:.4f} (at least {least}) in {epochs} epochs,"
                f" {parameters:,} parameters, {took_s:.1f} s (CPU {cpu_s:.1f} s)"
            )
            good &= told["accuracy"] >= least
            if recipe == "lenet":
                good &= parameters == LENET_PARAMETERS
            else:
                bound_s = LARGEST_RATIO * bare_s + SPARE_S
                bare = f"bare fit {bare_s:.1f} s (CPU {bare_cpu_s:.1f} s)"
                print(f"  {bare}, so at most {bound_s:.1f} s")
                good &= took_s <= bound_s
    print("as it has to be" if good else "NOT as it has to be")
    return 0 if good else 1


def _cpu_s() -> float:
    """Return the CPU seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(*arguments: str) -> str:
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    ended = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    return ended.stdout


if __name__ == "__main__":
    sys.exit(main())
