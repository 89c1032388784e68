"""How long a server takes to serve a large version out of a store, and how much memory.

    python benchmarks/remote.py --megabytes 1024

A store on the loopback interface, that of the tests, holds one version in its memory. Three times
are taken, each in a process of its own: the server's start from the folder on the disk, the bare
download of the version by obstore, and the server's start from the store with an empty cache. The
bound of the last is 1.5 times the sum of the others, and 256 MB of memory beyond the first.
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
from typing import Any

_BUCKET = "benchmark"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1024, help="how large (default 1024)")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "PLACE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(_one(*args.one)))
        return
    with tempfile.TemporaryDirectory(prefix="ladle-benchmark-") as folder:
        _measure(Path(folder), args.megabytes)


def _measure(folder: Path, megabytes: int) -> None:
    subprocess.run(
        [sys.executable, __file__, "--one", f"make:{megabytes}", str(folder / "models" / "m")],
        check=True,
        capture_output=True,
    )
    cache = folder / "cache"
    cache.mkdir()
    store = subprocess.Popen(
        [sys.executable, __file__, "--one", "store", str(folder / "models")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert store.stdin is not None
    assert store.stdout is not None
    try:
        os.environ |= json.loads(store.stdout.readline()) | {"XDG_CACHE_HOME": str(cache)}
        disk = _run("serve", str(folder / "models" / "m"))
        bare = _run("download", f"s3://{_BUCKET}/m")
        remote = _run("serve", f"s3://{_BUCKET}/m")
    finally:
        store.stdin.close()
        store.wait()
    ratio = remote["seconds"] / (disk["seconds"] + bare["seconds"])
    print(f"version                {megabytes:8,} MB")
    for name, found in (
        ("from the disk", disk),
        ("bare download", bare),
        ("from the store", remote),
    ):
        print(f"{name:22} {found['seconds']:8.2f} s  {found['peak_mb']:8,.0f} MB at most")
    print(f"times disk + download  {ratio:8.2f}")
    print(f"memory beyond the disk {remote['peak_mb'] - disk['peak_mb']:8,.0f} MB")


def _run(what: str, place: str) -> dict[str, float]:
    ended = subprocess.run(
        [sys.executable, __file__, "--one", what, place], check=True, stdout=subprocess.PIPE
    )
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _one(what: str, place: str) -> dict[str, float]:
    if what.startswith("make:"):
        _make(Path(place), int(what.partition(":")[2]))
        return {}
    if what == "store":
        _store(Path(place))
        return {}
    seconds = _serve(place) if what == "serve" else _download(place)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mb": peak / (1024 if sys.platform == "linux" else 1 << 20)}


def _serve(place: str) -> float:
    import tensorflow as tf

    from ladle.server import Config, Server

    tf.constant(0)  # what TensorFlow sets up once is in no figure
    server = Server(Config(port=None, model_name="m", model_base_path=place, drain_grace_seconds=0))
    began = time.monotonic()
    server.start()
    seconds = time.monotonic() - began
    server.stop(lame_duck=False)
    return seconds


def _download(place: str) -> float:
    import obstore
    from obstore.store import S3Store

    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    store = S3Store(bucket, client_options={"allow_http": True})
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=os.environ["XDG_CACHE_HOME"] + "/..") as folder:
        for number, stored in enumerate(obstore.list(store, prefix).collect()):
            with Path(folder, str(number)).open("wb") as file:
                for chunk in obstore.get(store, stored["path"]):
                    file.write(chunk)
        return time.monotonic() - began


def _store(models: Path) -> None:
    """Serve the models as a store does, until the standard input ends."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from http_store import HttpStore

    from ladle.store.layout import MANIFEST_NAME, file_of, write_manifest

    store = HttpStore()
    for version in models.glob("*/*"):
        prefix = f"{_BUCKET}/{version.relative_to(models).as_posix()}"
        paths = [p.relative_to(version).as_posix() for p in version.rglob("*") if p.is_file()]
        for path in paths:
            store.objects[f"{prefix}/{path}"] = (version / path).read_bytes()
        manifest = write_manifest([file_of(version, path) for path in paths], "now")
        store.objects[f"{prefix}/{MANIFEST_NAME}"] = manifest
    with store.running():
        print(json.dumps(store.environment), flush=True)
        sys.stdin.read()


def _make(base_path: Path, megabytes: int) -> None:
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            generator = tf.random.Generator.from_seed(1)
            self.weights = [
                tf.Variable(generator.normal([1 << 18]), name=f"w{i}") for i in range(megabytes)
            ]

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": x + sum(weight[0] for weight in self.weights)}

    model = Model()
    tf.saved_model.save(model, str(base_path / "1"), signatures={"serving_default": model.__call__})


if __name__ == "__main__":
    main()
