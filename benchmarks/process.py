"""A server in a process of its own, pinned to one core or more, that tells what it has used.

Run as a script it is that process: `process.py ladle BASE_PATH [FLAGS]` or
`process.py echo FILE TRANSPORT`. It prints its ports in one line, gRPC's and then HTTP's if there
is one, and then answers each line on stdin with one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER_CPU = 0
"""Where servers run; the load comes from the other CPUs."""
_SLOW_MODEL_S = 0.05
"""What a batch takes of the model that is served as `slow`."""


@dataclass
class Used:
    """What a server process has used since it started."""

    cpu_s: float
    python_s: float
    """The CPU of the threads that run Python; all of it but the model's is under Python's lock."""
    batches: Counter[int]
    """How many batches of each number of rows have run."""

    def since(self, before: Used) -> Used:
        """Return what was used from `before` to this."""
        return Used(
            self.cpu_s - before.cpu_s,
            self.python_s - before.python_s,
            self.batches - before.batches,
        )


class ServerProcess:
    """Starts the process, asks it, and ends it; a context manager."""

    def __init__(
        self,
        *arguments: str,
        program: Sequence[str] = (sys.executable, __file__),
        cpus: Collection[int] = (SERVER_CPU,),
    ) -> None:
        """Start it on these CPUs; another `program` has to speak as this script does."""
        self._process = subprocess.Popen(
            [*program, *arguments],
            preexec_fn=lambda: _pin(cpus),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        assert self._process.stdout is not None
        self.port, *http = map(int, self._process.stdout.readline().split())
        self.http_port = http[0] if http else 0
        """Where it serves HTTP; 0 if it does not."""

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def used(self) -> Used:
        """Return what it has used so far."""
        told = self._ask({})
        return Used(
            told["cpu_s"],
            told["python_s"],
            Counter({int(n): k for n, k in told["batches"].items()}),
        )

    def model_cpu_s(self, signature: str, batches: Mapping[int, int]) -> float:
        """Return the CPU that the model alone takes for these batches, called in that process."""
        told = self._ask({"signature": signature, "batches": dict(batches)})
        return float(told["cpu_s"])

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _pin(cpus: Collection[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def _cpu() -> dict[str, float]:
    """Return what the process and its threads that run Python have used, in seconds."""
    python_s = 0.0
    if hasattr(time, "pthread_getcpuclockid"):
        for thread in threading.enumerate():
            if thread.ident is not None and thread.is_alive():
                python_s += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return {"cpu_s": time.process_time(), "python_s": python_s}


def _serve_echo(answer: bytes, name: str) -> None:
    """Serve the bare transport of that name: every call is answered with the same bytes."""
    from ladle.server.call import Call, Methods, NonBlocking, Stream, Streaming, Transport

    def respond(call: Call) -> None:
        call.respond(answer)

    def stream(stream: Stream) -> None:
        def received(message: bytes | None) -> None:
            if message is None:
                stream.end()
            else:
                stream.send(answer, lambda: stream.receive(received))

        stream.receive(received)

    methods: Methods = {"/echo/Unary": NonBlocking(respond), "/echo/Stream": Streaming(stream)}
    transport: Transport
    if name == "native":
        from ladle.server.transport.native.transport import NativeTransport

        transport = NativeTransport(methods, max_threads=16)
    else:
        from ladle.server.transport.grpcio.transport import GrpcioTransport

        transport = GrpcioTransport(methods, max_threads=16)
    print(transport.listen("127.0.0.1:0"), flush=True)
    transport.start()
    for _ in sys.stdin:
        print(json.dumps({**_cpu(), "batches": {}}), flush=True)


def _nothing(shape: Sequence[int], dtype: Any) -> Any:
    import numpy as np

    return np.full(shape, b"", dtype) if np.dtype(dtype).hasobject else np.zeros(shape, dtype)


def _serve_ladle(base_path: str, flags: Sequence[str]) -> None:

    from ladle.protos import dtypes
    from ladle.server.config import Config
    from ladle.server.core.servable import Model
    from ladle.server.core.servable_id import ServableId
    from ladle.server.flags import settings
    from ladle.server.saved_model.loading import LoadOptions, load_saved_model
    from ladle.server.server import Server

    batches: Counter[int] = Counter()
    model: Any = None

    def load(servable_id: ServableId, path: Path) -> Model:
        nonlocal model
        model = load_saved_model(servable_id, path, LoadOptions())
        run = model.run
        wait_s = _SLOW_MODEL_S if servable_id.name == "slow" else 0.0

        def counted(signature: Any, inputs: Any, outputs: Any, deadline: Any = None) -> Any:
            batches[len(next(iter(inputs.values())))] += 1
            if wait_s:
                time.sleep(wait_s)
            return run(signature, inputs, outputs, deadline)

        model.run = counted
        model.uncounted = run
        return model  # type: ignore[no-any-return]

    models = "".join(
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" }}'
        for name in ("bench", "slow")
    )
    with tempfile.NamedTemporaryFile("w", suffix=".config") as file:
        file.write(f"model_config_list {{ {models} }}")
        file.flush()
        arguments = [
            "--port=auto",
            f"--model_config_file={file.name}",
            "--enable_serialization_as_tensor_content",
            *flags,
        ]
        config = Config(**settings(arguments))
        server = Server(config, load=load)
        server.start()
    print(*(address.rpartition(":")[2] for address in server.addresses), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        started = time.process_time()
        told: dict[str, Any] = {**_cpu(), "batches": dict(batches)}
        if question:
            signature = model.signatures[question["signature"]]
            for rows, count in question["batches"].items():
                inputs = {
                    alias: _nothing((int(rows), *spec.shape[1:]), dtypes.to_numpy(spec.data_type))
                    for alias, spec in signature.inputs.items()
                }
                for _ in range(count):
                    model.uncounted(signature, inputs, tuple(signature.outputs))
            told["cpu_s"] = time.process_time() - started
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        _serve_echo(Path(sys.argv[2]).read_bytes(), sys.argv[3])
    else:
        _serve_ladle(sys.argv[2], sys.argv[3:])
