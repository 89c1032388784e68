"""ProfilerService: how long it records, who ends it, and what it answers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ladle.protos.tensorflow_pb import ProfileRequest, ProfileResponse, TerminateRequest
from ladle.server.core.errors import Cancelled, Code, InvalidArgument, NotFound, ServingError
from ladle.server.core.observation import Unobserved
from ladle.server.rpc.middleware import ObservedCall
from ladle.server.rpc.profiler import ProfilerService


class Recorder:
    """Records until it is stopped, and says for how long it was to record, and how much."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.asked: list[tuple[float, dict[str, int]]] = []

    def record(self, duration_s: float, levels: dict[str, int], stopped: threading.Event) -> bytes:
        self.asked.append((duration_s, levels))
        self.begun.set()
        assert duration_s <= 1 or stopped.wait(60)
        return b"recorded"


class Call:
    """A call from this machine, whose caller leaves when `leave` is called."""

    local = True
    deadline = None
    shared_observation = None

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.leave: Callable[[], None] = lambda: None

    def metadata(self, key: str) -> str | None:
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        self.leave = callback

    def discard_request(self) -> None:
        pass

    def respond(self, response: bytes) -> None:
        pass

    def fail(self, error: ServingError) -> None:
        pass


def observed(call: Call) -> ObservedCall:
    return ObservedCall(call, "Profile", Unobserved())


def profile(service: ProfilerService, request: ProfileRequest) -> ProfileResponse:
    answer = service.profile(observed(Call(request.SerializeToString())))
    return ProfileResponse.FromString(answer)


def test_the_recording_is_a_file_for_the_callers_folder() -> None:
    recorder = Recorder()
    answer = profile(ProfilerService(recorder), ProfileRequest(duration_ms=500))
    assert [(tool.name, tool.data) for tool in answer.tool_data] == [("xplane.pb", b"recorded")]
    assert not answer.empty_trace
    assert recorder.asked == [(0.5, {})]


def test_who_asks_for_the_xspace_itself_gets_that() -> None:
    request = ProfileRequest(duration_ms=500, emit_xspace=True)
    request.opts.version = 1
    request.opts.host_tracer_level = 3
    recorder = Recorder()
    answer = profile(ProfilerService(recorder), request)
    assert (answer.xspace, list(answer.tool_data)) == (b"recorded", [])
    assert recorder.asked[0][1]["host_tracer_level"] == 3


@pytest.mark.parametrize("duration_ms", [0, 600_001, 2**64 - 1])
def test_a_duration_of_nothing_or_of_too_much_is_refused(duration_ms: int) -> None:
    with pytest.raises(InvalidArgument, match=f"expected 1 to 600000, got {duration_ms}"):
        profile(ProfilerService(Recorder()), ProfileRequest(duration_ms=duration_ms))


def test_terminate_ends_the_recording_of_its_session_alone() -> None:
    recorder = Recorder()
    service = ProfilerService(recorder)
    answers = []
    request = ProfileRequest(duration_ms=60_000, session_id="one")
    thread = threading.Thread(target=lambda: answers.append(profile(service, request)))
    thread.start()
    assert recorder.begun.wait(60)
    with pytest.raises(NotFound, match="'two'"):
        service.terminate(observed(Call(TerminateRequest(session_id="two").SerializeToString())))
    service.terminate(observed(Call(TerminateRequest(session_id="one").SerializeToString())))
    thread.join()
    assert answers[0].tool_data[0].data == b"recorded"
    with pytest.raises(NotFound):
        service.terminate(observed(Call(TerminateRequest(session_id="one").SerializeToString())))


def test_a_caller_who_goes_ends_the_recording() -> None:
    recorder = Recorder()
    service = ProfilerService(recorder)
    call = Call(ProfileRequest(duration_ms=60_000).SerializeToString())
    errors: list[Code] = []

    def ask() -> None:
        with pytest.raises(Cancelled) as caught:
            service.profile(observed(call))
        errors.append(caught.value.code)

    thread = threading.Thread(target=ask)
    thread.start()
    assert recorder.begun.wait(60)
    call.leave()
    thread.join()
    assert errors == [Code.CANCELLED]
