"""What is known of one version in a store, and of the cache's copy."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ladle.server.core.remote.asking import KnownManifest
from ladle.server.core.remote.cache import Lease
from ladle.server.core.remote.decisions import Sight, Verdict
from ladle.server.core.remote.examining import Examined
from ladle.server.core.remote.problems import Problem


@dataclass
class RemoteVersion:
    """One version. Its base's lock guards it."""

    folder_name: str
    sight: Sight | None = None
    verdict: Verdict | None = None
    """Of the last listing; None before one."""
    fingerprint: str = ""
    """Of the files in `verdict`."""
    manifest: KnownManifest | None = None
    lease: Lease | None = None
    """The whole version in the cache."""
    leased: str = ""
    """The fingerprint of what `lease` holds."""
    is_confirmed: bool = True
    """Whether the store has been asked since the lease was taken."""
    is_wanted: bool = False
    is_fetching: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    problem: Problem | None = None
    """Why it could not be fetched."""
    tries: int = 0
    retry_at: float | None = None
    told_changed: str = ""
    """The fingerprint of the change that was reported last."""

    def is_to_retry(self, now_s: float) -> bool:
        """Whether it is time to fetch it again."""
        return (
            self.is_wanted
            and self.lease is None
            and not self.is_fetching
            and self.retry_at is not None
            and now_s >= self.retry_at
        )

    def listed(self, examined: Examined) -> None:
        """Take what a listing has shown."""
        if examined.fingerprint != self.fingerprint:
            self.problem, self.tries, self.retry_at = None, 0, None
        self.sight, self.manifest = examined.sight, examined.manifest
        self.verdict, self.fingerprint = examined.verdict, examined.fingerprint

    def compare(self, *, has_failed: bool) -> bool:
        """Compare the cache's copy with what the store has now.

        What is served stays, whatever the store has. A copy that could not be loaded is given up
        if the store has another: that one is fetched then, and loaded from another folder.

        Returns whether it is news that they differ.
        """
        self.is_confirmed = True
        if self.fingerprint == self.leased:
            return False
        if has_failed and self.verdict is not None and self.verdict.files:
            self.release()
            return False
        is_news = self.told_changed != self.fingerprint
        self.told_changed = self.fingerprint
        return is_news

    def forgive(self) -> None:
        """Forget why it could not be taken: there may be room by now, or the right to read it."""
        if self.problem is not None and self.problem.is_final:
            self.problem, self.retry_at = None, None

    @property
    def is_coming(self) -> bool:
        """Whether it is wanted and on its way."""
        return self.is_wanted and self.lease is None and self.is_whole_there

    @property
    def is_whole_there(self) -> bool:
        """Whether the store has all of it, and nothing speaks against taking it."""
        is_refused = self.problem is not None and self.problem.is_final
        return self.verdict is not None and bool(self.verdict.files) and not is_refused

    def take(self, lease: Lease, fingerprint: str) -> None:
        """Keep a claim on the version in the cache."""
        self.lease, self.leased = lease, fingerprint
        self.problem, self.tries, self.retry_at = None, 0, None

    def release(self) -> None:
        """Give the claim up."""
        if self.lease is not None:
            self.lease.release()
            self.lease, self.leased = None, ""

    def drop(self) -> None:
        """Give up what is under way, and the claim."""
        self.cancelled.set()
        self.release()

    def why_not(self) -> Problem | None:
        """Return why it is not in the cache; None if nobody wants it, or nobody has asked."""
        if self.lease is not None or self.verdict is None:
            return None
        if not self.verdict.files:
            return Problem(self.verdict.problem, self.verdict.final)
        if self.problem is not None:
            return self.problem
        return Problem("it is being downloaded", False) if self.is_wanted else None
