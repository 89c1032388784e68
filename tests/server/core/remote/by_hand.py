"""A base in a store whose looks and downloads run when the test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from fakes import FakeClock
from stores import BASE, FakeStore

from ladle.server.core.remote.base import RemoteBase
from ladle.server.core.remote.beside import Beside
from ladle.server.core.remote.cache import Cache
from ladle.server.core.remote.decisions import Schedule
from ladle.server.core.remote.options import RemoteOptions
from ladle.server.core.remote.workers import Workers
from ladle.server.core.sources.base_path import ScanResult
from ladle.server.core.sources.version_policy import Latest, VersionPolicy
from ladle.store.errors import Unreachable

ONE: Mapping[str, bytes] = {"variables/v": b"one" * 9, "saved_model.pb": b"graph 1"}
TWO: Mapping[str, bytes] = {"variables/v": b"two" * 9, "saved_model.pb": b"graph 2"}


class ByHand(Workers):
    """Jobs wait until the test runs them."""

    def __init__(self) -> None:
        super().__init__(1, "by hand")
        self.jobs: deque[Callable[[], None]] = deque()
        self.has_threads = True

    def submit(self, key: str, job: Callable[[], None]) -> bool:
        if self.has_threads:
            self.jobs.append(job)
        return self.has_threads

    def run(self) -> bool:
        ran = bool(self.jobs)
        while self.jobs:
            self.jobs.popleft()()
        return ran


class Noted:
    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.nbytes = 0
        self.changes = 0
        self.failures = 0

    def fetched(self, model: str, nbytes: int, took_s: float, outcome: str) -> None:
        self.outcomes.append(outcome)
        self.nbytes += nbytes

    def look_failed(self, model: str) -> None:
        self.failures += 1

    def version_changed(self, model: str) -> None:
        self.changes += 1


class Harness:
    """A server's view of one base; time passes by `look`."""

    def __init__(
        self,
        root: Path,
        store: FakeStore | None = None,
        *,
        policy: VersionPolicy | None = None,
        once: bool = False,
        require_store: bool = False,
        max_bytes: int = 1 << 30,
    ) -> None:
        self.store = store or FakeStore()
        self.clock = FakeClock()
        self.noted = Noted()
        self.policy: VersionPolicy = policy or Latest()
        self.looks, self.fetches = ByHand(), ByHand()
        self.cache = Cache(root, max_bytes)
        self.cache.start()
        self.failed: set[int] = set()
        self.served: Mapping[int, Path] = {}
        self.labels: Mapping[str, int] | None = None
        options = RemoteOptions(
            cache=self.cache,
            open_store=lambda _: self.store,
            beside=Beside(config="config.pbtxt", named=lambda text, _: text.decode().split()),
            check=lambda f: None if (f / "saved_model.pb").is_file() else "no saved_model.pb",
            schedule=Schedule(wait_s=15, settle_s=30),
            once=once,
            require_store=require_store,
            threads=2,
            looks=self.looks,
            fetches=self.fetches,
            notes=self.noted,
            clock=self.clock,
            wall=lambda: self.store.now_s,
            chance=lambda: 0.5,
        )
        self.base = RemoteBase(BASE, "m", options, lambda: None)

    def scan(self) -> ScanResult:
        found = self.base.scan(self.policy, self.failed, keeps_labelled=True)
        if found.wanted is not None:
            self.served = found.wanted
        if found.labels is not None:
            self.labels = found.labels
        return found

    def look(self, times: int = 1, every_s: float = 400.0) -> ScanResult:
        """Let a poll come, its look and its downloads end, and return what is known then."""
        for _ in range(times):
            self.clock.advance(every_s)
            self.store.now_s += every_s
            found = self.scan()
            for _ in range(20):
                if not self.looks.run() | self.fetches.run():
                    break
                found = self.scan()
        return found

    def content(self, version: int) -> dict[str, bytes]:
        folder = self.served[version]
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".ladle")
        }


def unreachable(request: str, key: str) -> None:
    raise Unreachable(f"{BASE}: the store can't be reached: connection refused")
