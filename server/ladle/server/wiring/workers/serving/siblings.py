"""The other workers, as one worker sees them: it asks by the supervisor, and is asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ladle.server.core.errors import Code, ServingError, Unavailable
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.families import Counters, Family, Gauges
from ladle.server.wiring.workers.deciding.statuses import Status
from ladle.server.wiring.workers.frames import FrameError, Message
from ladle.server.wiring.workers.serving.channel import Channel
from ladle.server.wiring.workers.serving.families_data import from_data, to_data

logger = logging.getLogger(__name__)

Answer = Callable[[Any], Any]
"""Takes the body of a question, and returns that of the answer; may block, and raise."""

# The supervisor answers earlier, unless it hangs.
_QUICK_S = 5.0
_CHANGE_S = 60.0


class Siblings:
    """Thread-safe. Order of calls: `answer_with` once, and `handle` for what the channel brings."""

    def __init__(self, channel: Channel, number: int, barrier_s: float) -> None:
        """Take the way to the supervisor.

        Args:
            channel: has been given `handle` and `gone`, or will be.
            number: which worker this is.
            barrier_s: how long a version waits for the other workers to have it.
        """
        self.number = number
        """Which worker this is."""
        self._channel = channel
        self._barrier_s = barrier_s
        self._answers: Mapping[str, Answer] = {}
        self._can_answer = threading.Event()
        self._lock = threading.Condition()
        # Guarded by _lock.
        self._last = 0
        self._replies: dict[int, Any] = {}
        self._unanswered: set[int] = set()
        self._held: set[ServableId] = set()
        self._waits = True
        self._alone = False

    def answer_with(self, answers: Mapping[str, Answer]) -> None:
        """Answer questions from now on, by what they are about; those that came before wait."""
        self._answers = answers
        self._can_answer.set()

    def handle(self, message: Message) -> None:
        """Take a message of the supervisor's; never blocks."""
        match message["op"]:
            case "query":
                threading.Thread(
                    target=self._answer, args=(message,), name="query", daemon=True
                ).start()
            case "reply":
                with self._lock:
                    if message["id"] in self._unanswered:
                        self._unanswered.discard(message["id"])
                        self._replies[message["id"]] = message["body"]
                        self._lock.notify_all()
            case "release":
                with self._lock:
                    self._held.discard(ServableId(message["name"], message["version"]))
                    self._lock.notify_all()

    def gone(self) -> None:
        """Take note that the supervisor has gone: nothing is waited for any more."""
        with self._lock:
            self._alone = True
            self._waits = False
            self._lock.notify_all()

    def ask(self, op: str, body: Any, timeout_s: float, **more: Any) -> Any:
        """Ask the supervisor, and return the body of its reply; blocks.

        Raises:
            Unavailable: There was none in time.
        """
        with self._lock:
            self._last += 1
            number = self._last
            self._unanswered.add(number)
        try:
            self._channel.send({"op": op, "id": number, "body": body, **more})
            with self._lock:
                self._lock.wait_for(lambda: number in self._replies or self._alone, timeout_s)
                if number in self._replies:
                    return self._replies[number]
        except FrameError as error:
            raise Unavailable(f"the other workers can't be asked: {error}") from None
        finally:
            with self._lock:
                self._unanswered.discard(number)
                self._replies.pop(number, None)
        raise Unavailable("the supervisor did not answer in time, and a change may have been made")

    def change(self, body: Mapping[str, Any]) -> Any:
        """Have all workers make a change; return what this one's `apply` returned. Blocks.

        Raises:
            ServingError: One could not, and says why.
        """
        reply = self.ask("change", body, _CHANGE_S)
        _raise(reply["error"])
        return reply["body"]

    def wait(self, names: list[str], timeout_s: float) -> None:
        """Block until all workers say that the models have come up.

        Raises:
            ServingError: In one they did not, and it says why.
        """
        body = {"names": names, "timeout_s": timeout_s}
        _raise(self.ask("ask", body, timeout_s + _QUICK_S, about="wait")["error"])

    def join(self) -> Any:
        """Take part in changes from now on; return what the last one left, None if there was none.

        Blocks while a change is under way.

        Raises:
            Unavailable: The supervisor did not answer.
        """
        return self.ask("join", None, _CHANGE_S)["models"]

    def configured(self, models: Any) -> None:
        """Have workers that start later begin with these models, unless somebody changes them."""
        self._channel.send({"op": "configured", "models": models})

    def have_read(self) -> None:
        """Have workers that start later begin with what their files say."""
        self._channel.send({"op": "read"})

    def merged_families(self, own: list[Family]) -> Iterable[Family]:
        """Return the metrics of all workers as one server's; of one that is silent, the last."""
        data = [to_data(family) for family in own]
        try:
            reply = self.ask("ask", data, _QUICK_S, about="metrics")
        except Unavailable:
            return own
        return [*map(from_data, reply["families"]), *_about_workers(reply)]

    def merged_status(self, own: Status) -> Status:
        """Return the status of all workers as one server's; those that are silent are left out."""
        try:
            merged: Status = self.ask("ask", own, _QUICK_S, about="status")
        except Unavailable:
            return own
        return merged

    def say_last(self, own: list[Family]) -> None:
        """Have the supervisor keep what this worker has counted, at its end."""
        try:
            self._channel.send({"op": "metrics", "body": [to_data(family) for family in own]})
        except FrameError as error:
            logger.warning("the last counts are lost: %s", error)

    def loaded(self, servable_id: ServableId) -> None:
        """Block until the other workers have a version too, have failed with it, or take too long.

        It is not available meanwhile.
        """
        if not self._released("loaded", servable_id):
            text = "other workers have not loaded it after %g s model=%s version=%d"
            logger.warning(text, self._barrier_s, *servable_id)

    def failed(self, servable_id: ServableId) -> None:
        """Have no other worker wait for a version that this one can't load."""
        self._about("failed", servable_id)

    def leaving(self, servable_id: ServableId) -> None:
        """Block until the other workers say too that a version goes, or take too long.

        It answers meanwhile.
        """
        if not self._released("leaving", servable_id):
            text = "other workers serve on what goes here after %g s model=%s version=%d"
            logger.warning(text, self._barrier_s, *servable_id)

    def stop_waiting(self) -> None:
        """Have versions wait for nobody any more: this worker stops."""
        with self._lock:
            self._waits = False
            self._lock.notify_all()

    def _released(self, op: str, servable_id: ServableId) -> bool:
        """Say something of a version, and wait for the others to say it; False if they don't."""
        with self._lock:
            self._held.add(servable_id)
        self._about(op, servable_id)
        with self._lock:
            released = self._lock.wait_for(
                lambda: servable_id not in self._held or not self._waits, self._barrier_s
            )
            self._held.discard(servable_id)
        return released

    def _about(self, op: str, servable_id: ServableId) -> None:
        self._channel.send({"op": op, "name": servable_id.name, "version": servable_id.version})

    def _answer(self, query: Message) -> None:
        answer: Message = {"op": "answer", "round": query["round"], "error": None, "body": None}
        try:
            self._can_answer.wait()
            answer["body"] = self._answers[query["about"]](query["body"])
        except ServingError as error:
            answer["error"] = {"code": error.code.value, "message": error.message}
        except Exception:
            logger.exception("a question of another worker's failed")
            message = f"worker {self.number} failed on this request"
            answer["error"] = {"code": Code.INTERNAL.value, "message": message}
        try:
            self._channel.send(answer)
        except FrameError as error:
            message = f"worker {self.number}: {error}"
            failed = {"code": Code.INTERNAL.value, "message": message}
            self._channel.send({**answer, "body": None, "error": failed})


def _raise(error: Mapping[str, Any] | None) -> None:
    if error is not None:
        raise ServingError(error["message"], Code(error["code"]))


def _about_workers(reply: Mapping[str, Any]) -> Iterable[Family]:
    serving = Gauges("ladle_workers_serving", about="Workers that take requests.")
    serving.set(reply["serving"])
    silent = Gauges(
        "ladle_workers_silent",
        about="Workers that did not say in time what they count; their last word counts.",
    )
    silent.set(reply["silent"])
    deaths = Counters(
        "ladle_worker_deaths_total", "worker", about="Workers that ended unasked, by their number."
    )
    for number, count in reply["deaths"].items():
        deaths.add(count, number)
    return serving, silent, deaths
