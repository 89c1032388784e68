"""Whatever happens under a base path: a model that was available stays so until it is withdrawn."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fakes import TIMEOUT_S, FakeClock, FakeServable
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ladle.server.core.errors import FailedPrecondition, InvalidArgument, NotFound
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.states import State
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.models.model_set import ModelSet
from ladle.server.core.servable_id import ServableId
from ladle.server.core.sources.file_system import FileSystemSource
from ladle.server.core.sources.version_policy import All, Latest, Specific, VersionPolicy

VERSIONS = st.integers(1, 5)
POLICIES: st.SearchStrategy[VersionPolicy] = st.one_of(
    st.just(Latest()),
    st.just(Latest(2)),
    st.just(All()),
    st.frozensets(VERSIONS, min_size=1, max_size=2).map(Specific),
)


def lacking(folder: Path) -> str | None:
    """A version is whole once its last file is there."""
    return None if (folder / "last").is_file() else "there is no last"


class Lifecycle(RuleBasedStateMachine):
    """Random operations on disk and on the configuration, stepped by hand; nothing sleeps.

    The reference is small: what is on disk, whether the model was withdrawn, and which versions
    have been good ever since they appeared. At the moments that matter, amid every load and
    unload, the latest version is asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.base_path = self.folder / "m"
        self.clock = FakeClock()
        self.manager = Manager(self.load)
        self.source = FileSystemSource(
            self.manager, poll_wait_s=1, check=lacking, clock=self.clock, wall=lambda: 0.0
        )
        self.models = ModelSet(self.manager, self.source)
        self.policy: VersionPolicy = Latest()
        self.labels: dict[str, int] = {}
        self.must_serve = False
        self.good: set[int] = set()
        self.violations: list[str] = []
        self.files = 0

    def load(self, servable_id: ServableId, path: Path) -> FakeServable:
        self.ask(f"amid the load of {servable_id}")
        try:
            content = (path / "graph").read_text()
        except OSError:
            content = "gone"
        if content != "good":
            raise InvalidArgument(f"{path} is {content}")
        machine = self

        class Probing(FakeServable):
            def close(self) -> None:
                machine.ask(f"amid the unload of {servable_id}")
                super().close()

        return Probing()

    def ask(self, moment: str) -> int | None:
        """Ask for the latest version, and return it."""
        must_serve = self.must_serve
        for name in ("m", "other"):
            try:
                with self.manager.acquire(name) as handle:
                    assert isinstance(handle.servable, FakeServable)
                    assert not handle.servable.closed.is_set()
                    latest = handle.id.version
            except NotFound as error:
                if must_serve:
                    self.violations.append(f"{moment}: {error}")
                latest = None
            if name == "m":
                found = latest
        return found

    def configured(self) -> list[ModelConfig]:
        return [
            ModelConfig("other", self.folder / "other"),
            ModelConfig("m", self.base_path, self.policy, self.labels),
        ]

    def step(self) -> None:
        self.clock.advance(1)
        self.source.step()
        assert self.manager.wait_until(lambda: not self.manager.transitions, TIMEOUT_S)

    @property
    def on_disk(self) -> set[int]:
        return {int(p.name) for p in self.base_path.iterdir() if p.name.isdigit()}

    @property
    def served(self) -> set[int]:
        return {s.version for s in self.manager.status("m") if s.state is State.AVAILABLE}

    @property
    def is_hidden(self) -> bool:
        return not self.base_path.is_dir()

    @property
    def is_configured(self) -> bool:
        return "m" in self.models.models

    def write(self, version: int, content: str, *, last: bool = True) -> None:
        folder = self.base_path / str(version)
        folder.mkdir(exist_ok=True)
        self.files += 1
        # Of another size each time, as a new fingerprint must not hang on a file system's clock.
        (folder / "notes").write_text("x" * self.files)
        (folder / "graph").write_text(content)
        if last:
            (folder / "last").touch()

    def taken_away(self) -> None:
        """Take note of whether what is gone from the disk withdraws the model."""
        wanted = self.on_disk
        if isinstance(self.policy, Specific):
            wanted &= self.policy.versions
        if not wanted:
            self.must_serve = False

    @initialize()
    def start(self) -> None:
        (self.folder / "other" / "1").mkdir(parents=True)
        (self.folder / "other" / "1" / "graph").write_text("good")
        (self.folder / "other" / "1" / "last").touch()
        self.base_path.mkdir()
        self.write(1, "good")
        self.good.add(1)
        self.models.apply_first(self.configured())
        self.settle()
        assert self.must_serve

    @rule(version=VERSIONS)
    @precondition(lambda self: not self.is_hidden)
    def publish(self, version: int) -> None:
        if version not in self.on_disk:
            self.write(version, "good")
            self.good.add(version)
        self.step()

    @rule(version=VERSIONS, step=st.booleans())
    @precondition(lambda self: not self.is_hidden)
    def begin_to_copy(self, version: int, step: bool) -> None:
        if version not in self.on_disk:
            self.write(version, "half", last=False)
        if step:
            self.step()

    @rule(version=VERSIONS)
    @precondition(lambda self: not self.is_hidden)
    def go_on_copying(self, version: int) -> None:
        folder = self.base_path / str(version)
        if folder.is_dir() and not (folder / "last").exists():
            self.write(version, "good")
            self.good.add(version)
        self.step()

    @rule(version=VERSIONS)
    @precondition(lambda self: not self.is_hidden)
    def corrupt(self, version: int) -> None:
        if version in self.on_disk:
            self.write(version, "bad")
            self.good.discard(version)
        self.step()

    @rule(version=VERSIONS)
    @precondition(lambda self: not self.is_hidden)
    def mend(self, version: int) -> None:
        if version in self.on_disk:
            self.write(version, "good")
        self.step()

    @rule(version=VERSIONS)
    @precondition(lambda self: not self.is_hidden)
    def delete(self, version: int) -> None:
        shutil.rmtree(self.base_path / str(version), ignore_errors=True)
        self.good.discard(version)
        self.taken_away()
        self.step()

    @rule(version=VERSIONS, to=VERSIONS)
    @precondition(lambda self: not self.is_hidden)
    def rename(self, version: int, to: int) -> None:
        if version in self.on_disk and to not in self.on_disk:
            (self.base_path / str(version)).rename(self.base_path / str(to))
            if version in self.good:
                self.good.add(to)
            self.good.discard(version)
            self.taken_away()
        self.step()

    @rule()
    @precondition(lambda self: not self.is_hidden)
    def hide_the_base_path(self) -> None:
        self.base_path.rename(self.folder / "hidden")
        self.step()

    @rule()
    @precondition(lambda self: self.is_hidden)
    def show_the_base_path(self) -> None:
        (self.folder / "hidden").rename(self.base_path)
        self.taken_away()
        self.step()

    @rule(policy=POLICIES)
    @precondition(lambda self: self.is_configured)
    def change_the_policy(self, policy: VersionPolicy) -> None:
        self.policy = policy
        if not self.is_hidden and not self.served & self.on_disk:
            self.taken_away()
        self.models.replace(self.configured())
        self.step()

    @rule(label=st.sampled_from(["stable", "canary"]), version=VERSIONS)
    @precondition(lambda self: self.is_configured)
    def move_a_label(self, label: str, version: int) -> None:
        before = self.labels
        self.labels = before | {label: version}
        available = self.manager.is_available("m", version)
        try:
            self.models.replace(self.configured())
            assert available or before.get(label) == version
        except FailedPrecondition:
            assert not available
            self.labels = before
        self.step()

    @rule()
    @precondition(lambda self: self.is_configured)
    def withdraw(self) -> None:
        self.must_serve = False
        self.labels = {}
        self.models.remove("m")
        self.step()
        assert not self.manager.is_available("m")

    @rule()
    @precondition(lambda self: not self.is_configured)
    def configure_again(self) -> None:
        self.models.replace(self.configured())
        self.step()

    @rule()
    def settle(self) -> None:
        """Let two polls pass: then what is whole and wanted is served."""
        self.step()
        self.step()
        latest = self.ask("at rest")
        if latest is not None and self.is_configured:
            self.must_serve = True
        if not self.is_configured or self.is_hidden or not isinstance(self.policy, Latest):
            return
        whole = {v for v in self.on_disk if lacking(self.base_path / str(v)) is None}
        if whole and max(whole) in self.good:
            assert latest == max(whole)

    @invariant()
    def what_was_available_stays_so(self) -> None:
        self.ask("between two steps")
        assert self.violations == []

    @invariant()
    def labels_stand_where_they_were_put(self) -> None:
        for label, version in self.labels.items():
            assert self.manager.labelled("m", label) == version

    def teardown(self) -> None:
        self.must_serve = False
        assert self.manager.stop(TIMEOUT_S)
        shutil.rmtree(self.folder)


Lifecycle.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLifecycle = Lifecycle.TestCase
