"""Changes folders and configurations of a running server, and sees what its clients see of it.

Usage, by the conformance environment's Python, in the folder tests:
python -m conformance.lifecycle_table ADDRESS ROOT
ROOT holds whole versions, tf1 and tf2, and the base paths `first` and `labelled`, which the server
was started with. Prints, as JSON, each row that went otherwise than told, and the number of all.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conformance.without_tensorflow  # noqa: F401 - before the stubs

# isort: split
import grpc
from conformance.error_table import TIMEOUT_S, Row, changed, differing, predict
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

# How often, and after how long, the server is asked whether it has come to a state.
LOOKS, PAUSE_S = 1200, 0.05
AVAILABLE, END = 30, 50
REFUSED = "INVALID_ARGUMENT"
# A SavedModel by its framing, and only by it: loading tells.
CORRUPT = b"\x08\x01\x12\x00"

States = dict[int, int]
"""The states of a model's versions, in the order told."""


def main() -> None:
    """Go through the table, in its order: each row finds what those before it have made."""
    address, root = sys.argv[1:]
    rows: set[str] = set()
    wrong: dict[str, str] = {}
    with grpc.insecure_channel(address) as channel:
        for row in table(Server(channel, Path(root))):
            assert row.situation not in rows, f"two rows of one name: {row.situation}"
            rows.add(row.situation)
            if found := differing(row):
                wrong[row.situation] = found
    print(json.dumps({"wrong": wrong, "rows": len(rows)}))


class Server:
    """The server that is asked, the folders it looks into, and what it was last configured with."""

    def __init__(self, channel: grpc.Channel, root: Path) -> None:
        self.root = root
        self._predict: Any = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        self._models: Any = model_service_pb2_grpc.ModelServiceStub(channel)

    def publish(self, name: str, folder: str, *, like: str = "tf1", corrupt: bool = False) -> None:
        """Put a version in place in one step."""
        staged = self.root / name / "staged"
        shutil.copytree(self.root / like, staged)  # makes the base path too
        if corrupt:
            (staged / "saved_model.pb").write_bytes(CORRUPT)
        staged.rename(self.root / name / folder)

    def withdraw(self, name: str, folder: str) -> None:
        """Take a version away in one step."""
        (self.root / name / folder).rename(self.root / f"gone_{name}_{folder}")

    def model(self, name: str, *, path: str = "", **more: Any) -> dict[str, Any]:
        """Return a ModelConfig's fields."""
        base_path = str(self.root / (path or name))
        return {"name": name, "base_path": base_path, "model_platform": "tensorflow", **more}

    def reload(self, *models: dict[str, Any]) -> Any:
        """Have just these models served."""
        return self.reload_with({"model_config_list": {"config": list(models)}})

    def reload_with(self, config: dict[str, Any]) -> Any:
        """Send a ModelServerConfig of any kind."""
        proto = model_server_config_pb2.ModelServerConfig(**config)
        request = model_management_pb2.ReloadConfigRequest(config=proto)
        return self._models.HandleReloadConfigRequest(request, timeout=TIMEOUT_S)

    def ask(self, name: str, signature: str = "", **spec: Any) -> int:
        """Return the version that has answered, rightly, to a request for a model."""
        request = changed(predict(signature), name=name, **spec)
        response = self._predict(request, timeout=TIMEOUT_S)
        assert list(response.outputs["y"].float_val) == [3.0]
        return int(response.model_spec.version.value)

    def status(self, name: str = "", **spec: Any) -> Any:
        """Return the GetModelStatusResponse."""
        request = get_model_status_pb2.GetModelStatusRequest()
        if name or spec:
            request = changed(request, name=name, **spec)
        return self._models.GetModelStatus(request, timeout=TIMEOUT_S)

    def becomes(self, name: str, wanted: States) -> States:
        """Ask until a model's versions are in these states; return them as they are in the end."""
        states: States = {}
        for _ in range(LOOKS):
            try:
                told = self.status(name).model_version_status
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                told = []  # nothing was seen of it yet
            states = {version.version: version.state for version in told}
            if states == wanted:
                break
            time.sleep(PAUSE_S)
        return states


def table(server: Server) -> Iterator[Row]:
    """All rows."""
    yield answers(server, "start: a label of the config file", "labelled", 1, label="stable")
    yield from name_rows(server)
    yield from swap_rows(server)
    yield from policy_rows(server)
    yield from label_rows(server)
    yield from base_path_rows(server)
    yield from refused_reload_rows(server)
    yield from failing_model_rows(server)
    yield from status_rows(server)
    yield from omission_rows(server)


def comes(server: Server, situation: str, name: str, **states: int) -> Row:
    """A row for what becomes of a model's versions, given as v1=AVAILABLE, the highest first."""
    wanted = {int(version[1:]): state for version, state in states.items()}
    # Dicts are equal in any order; the order told is descending.
    return ok(situation, lambda: list(server.becomes(name, wanted).items()), list(wanted.items()))


def ok(situation: str, send: Callable[[], Any], wanted: Any = None) -> Row:
    """A row for what is answered, with just this unless it is None."""
    return Row(situation, send, "OK", lambda got: wanted is None or got == wanted)


def answers(server: Server, situation: str, name: str, version: int, /, **spec: Any) -> Row:
    """A row for the version that answers."""
    return ok(situation, lambda: server.ask(name, **spec), version)


def gone(server: Server, situation: str, name: str, version: int | None = None) -> Row:
    """A row for a request that finds nothing to answer it."""
    wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    gist = f"Servable not found for request: {wanted}"
    return Row(situation, lambda: server.ask(name, version=version), "NOT_FOUND", gist)


def name_rows(server: Server) -> Iterator[Row]:
    """Which children of a base path are versions."""
    for folder in ("tmp", "1.0", "4_tmp", ".5", "99999999999999999999"):
        server.publish("named", folder)
    server.publish("named", "007", corrupt=True)
    for folder in ("7", "00000123", "+8"):
        server.publish("named", folder)
    named = server.model("named", model_version_policy={"all": {}})
    yield ok("names: a new model", lambda: server.reload(server.model("first"), named))
    states = {"v123": AVAILABLE, "v8": AVAILABLE, "v7": AVAILABLE}
    yield comes(server, "names: numbers alone, the later of two alike", "named", **states)
    yield answers(server, "names: the highest number", "named", 123)
    yield answers(server, "names: one with a sign", "named", 8, version=8)
    yield ok("names: taken out", lambda: server.reload(server.model("first")))


def swap_rows(server: Server) -> Iterator[Row]:
    """Versions that are published and taken away, under the policy that there is by default."""
    yield comes(server, "swap: at start", "first", v1=AVAILABLE)
    yield answers(server, "swap: at start, the newest", "first", 1)
    server.publish("first", "2")
    yield comes(server, "swap: a new version", "first", v2=AVAILABLE, v1=END)
    yield answers(server, "swap: the new version answers", "first", 2)
    yield answers(server, "swap: so it does by number", "first", 2, version=2)
    yield gone(server, "swap: the old version by number", "first", 1)
    server.publish("first", "003", corrupt=True)
    states = {"v3": END, "v2": AVAILABLE, "v1": END}
    yield comes(server, "swap: a version that can't be loaded", "first", **states)
    yield ok("swap: it tells why", lambda: error_of(server, "first", 3) != (0, ""), True)
    yield answers(server, "swap: the one before goes on", "first", 2)
    yield gone(server, "swap: the failed one by number", "first", 3)
    server.withdraw("first", "003")
    server.publish("first", "4")
    states = {"v4": AVAILABLE, "v3": END, "v2": END, "v1": END}
    yield comes(server, "swap: the next one is well", "first", **states)
    server.withdraw("first", "4")
    states = {"v4": END, "v3": END, "v2": AVAILABLE, "v1": END}
    yield comes(server, "swap: the newest is deleted", "first", **states)
    yield answers(server, "swap: the one before answers again", "first", 2)
    for folder in ("1", "2"):
        server.withdraw("first", folder)
    yield comes(server, "swap: all are deleted", "first", v4=END, v3=END, v2=END, v1=END)
    yield gone(server, "swap: nothing is left to answer", "first")
    server.publish("first", "5")
    states = {"v5": AVAILABLE, "v4": END, "v3": END, "v2": END, "v1": END}
    yield comes(server, "swap: a version after none", "first", **states)


def policy_rows(server: Server) -> Iterator[Row]:
    """What each version policy serves."""
    for folder in ("1", "02", "3", "4"):
        server.publish("chosen", folder)

    def reload(**policy: Any) -> Callable[[], Any]:
        chosen = server.model("chosen", model_version_policy=policy)
        return lambda: server.reload(server.model("first"), chosen)

    yield ok("policy: specific", reload(specific={"versions": [1, 2]}))
    yield comes(server, "policy: specific versions", "chosen", v2=AVAILABLE, v1=AVAILABLE)
    yield answers(server, "policy: an older one by number", "chosen", 1, version=1)
    yield gone(server, "policy: one that isn't wanted", "chosen", 4)
    yield ok("policy: latest", reload(latest={"num_versions": 2}))
    states = {"v4": AVAILABLE, "v3": AVAILABLE, "v2": END, "v1": END}
    yield comes(server, "policy: the latest two", "chosen", **states)
    yield ok("policy: all", reload(all={}))
    states = {"v4": AVAILABLE, "v3": AVAILABLE, "v2": AVAILABLE, "v1": AVAILABLE}
    yield comes(server, "policy: all versions", "chosen", **states)
    yield answers(server, "policy: the highest of all", "chosen", 4)
    yield ok("policy: specific, one missing", reload(specific={"versions": [3, 9]}))
    states = {"v4": END, "v3": AVAILABLE, "v2": END, "v1": END}
    yield comes(server, "policy: the one that is there", "chosen", **states)
    yield gone(server, "policy: the one that is not there", "chosen", 9)
    # Upstream would unload the model. That the new one has come up tells that all were looked at.
    server.publish("tick", "1")
    missing = server.model("chosen", model_version_policy={"specific": {"versions": [9]}})
    models = server.model("first"), missing, server.model("tick")
    yield ok("policy: specific, none there", lambda: server.reload(*models))
    yield comes(server, "policy: what is served stays", "chosen", **states)
    yield answers(server, "policy: and answers", "chosen", 3)
    yield ok("policy: none chosen", reload())
    states = {"v4": AVAILABLE, "v3": END, "v2": END, "v1": END}
    yield comes(server, "policy: the latest one", "chosen", **states)
    yield ok("policy: latest 0", reload(latest={}))
    server.publish("chosen", "5")
    states = {"v5": AVAILABLE, "v4": END, "v3": END, "v2": END, "v1": END}
    yield comes(server, "policy: 0 counts as 1", "chosen", **states)
    yield ok("policy: specific, none", reload(specific={}))
    yield comes(server, "policy: nothing", "chosen", v5=END, v4=END, v3=END, v2=END, v1=END)
    yield gone(server, "policy: nothing to answer", "chosen")


def label_rows(server: Server) -> Iterator[Row]:
    """Names for versions. The model was taken out by a reload before, and comes back."""

    def reload(beside: str = "first", **labels: int) -> Callable[[], Any]:
        labelled = server.model("labelled", model_version_policy={"all": {}}, version_labels=labels)
        return lambda: server.reload(server.model(beside), labelled)

    def unknown(situation: str, label: str) -> Row:
        gist = f"Unrecognized servable version label: {label}"
        return Row(situation, lambda: server.ask("labelled", label=label), REFUSED, gist)

    def refused(situation: str, version: int, send: Callable[[], Any]) -> Row:
        gist = (
            f"Request to assign label to version {version} of model labelled, "
            "which is not currently available for inference"
        )
        return Row(situation, send, "FAILED_PRECONDITION", gist)

    yield refused("labels: of a model that is yet to load", 1, reload(stable=1))
    yield ok("labels: none", reload())
    yield comes(server, "labels: two versions", "labelled", v2=AVAILABLE, v1=AVAILABLE)
    yield unknown("labels: unknown", "stable")
    yield ok("labels: assigned", reload(stable=1, canary=2))
    yield answers(server, "labels: one", "labelled", 1, label="stable")
    yield answers(server, "labels: the other", "labelled", 2, label="canary")
    yield answers(server, "labels: without one", "labelled", 2)
    yield unknown("labels: unknown beside others", "nope")
    yield refused("labels: on a missing version", 9, reload("chosen", stable=2, canary=9))
    yield answers(server, "labels: none has moved then", "labelled", 1, label="stable")
    yield answers(server, "labels: nor the other", "labelled", 2, label="canary")
    yield answers(server, "labels: no model has gone then", "first", 5)
    yield ok("labels: moved", reload(stable=2, canary=2))
    yield answers(server, "labels: two on a version", "labelled", 2, label="stable")
    yield answers(server, "labels: both", "labelled", 2, label="canary")
    yield ok("labels: taken away", reload(stable=1))
    yield answers(server, "labels: moved back", "labelled", 1, label="stable")
    yield unknown("labels: not there any more", "canary")
    server.withdraw("labelled", "1")
    yield comes(server, "labels: its version is deleted", "labelled", v2=AVAILABLE, v1=END)
    gist = "Servable not found for request: Specific(labelled, 1)"
    ask = Row(
        "labels: on what is unloaded",
        lambda: server.ask("labelled", label="stable"),
        "NOT_FOUND",
        gist,
    )
    yield ask


def base_path_rows(server: Server) -> Iterator[Row]:
    """Base paths that change, and one that goes away."""
    server.publish("moved", "1", like="tf1")
    server.publish("elsewhere", "1", like="tf2")
    server.publish("elsewhere", "2", like="tf2")

    def reload(path: str) -> Callable[[], Any]:
        policy: dict[str, Any] = {"all": {}}
        moved = server.model("moved", path=path, model_version_policy=policy)
        return lambda: server.reload(server.model("first"), moved)

    yield ok("base path: a model", reload("moved"))
    yield comes(server, "base path: its version", "moved", v1=AVAILABLE)
    yield ok("base path: another", reload("elsewhere"))
    yield comes(server, "base path: its versions", "moved", v2=AVAILABLE, v1=AVAILABLE)
    old = {"signature": "both", "version": 1}
    yield answers(server, "base path: what is loaded stays as it is", "moved", 1, **old)
    gist = 'Serving signature key "both" not found.'
    yield Row(
        "base path: what is new is read there",
        lambda: server.ask("moved", signature="both", version=2),
        "FAILED_PRECONDITION",
        gist,
    )
    (server.root / "elsewhere").rename(server.root / "unmounted")
    server.publish("first", "6")
    states = {"v6": AVAILABLE, "v5": END, "v4": END, "v3": END, "v2": END, "v1": END}
    yield comes(server, "base path: one is gone, the others go on", "first", **states)
    yield answers(server, "base path: what is served stays", "moved", 2)
    yield ok("base path: taken out", lambda: server.reload(server.model("first")))


def refused_reload_rows(server: Server) -> Iterator[Row]:
    """Configurations that are refused, and change nothing."""
    first = server.model("first")
    for situation, wrong, gist in (
        ("a name twice", first, "Illegal to list model first multiple times in config list"),
        (
            "a relative base path",
            {**server.model("other"), "base_path": "models/other"},
            "Expected model other to have an absolute path or URI; got base_path()=models/other",
        ),
        ("no base path", {**server.model("other"), "base_path": ""}, "got base_path()="),
        ("no name", server.model("", path="other"), "name"),
        ("an unknown platform", server.model("other", model_platform="caffe"), "caffe"),
        ("no platform", server.model("other", model_platform=""), "other"),
        ("both platform and type", server.model("other", model_type=1), "model other"),
        (
            "a request log",
            server.model("other", logging_config={}),
            "No request-logger-creator provided",
        ),
    ):

        def send(wrong: dict[str, Any] = wrong) -> Any:
            return server.reload(first, wrong)

        yield Row(f"reload: {situation}", send, REFUSED, gist)
    changing = {**first, "model_platform": "caffe"}
    yield Row("reload: another platform", lambda: server.reload(changing), REFUSED, "first")
    yield Row("reload: empty", lambda: server.reload_with({}), REFUSED, "model_config_list")
    custom: dict[str, Any] = {"custom_model_config": {}}
    gist = "custom_model_config"
    yield Row("reload: custom", lambda: server.reload_with(custom), REFUSED, gist)
    yield answers(server, "reload: nothing has changed", "first", 6)
    yield gone(server, "reload: nothing has come", "other")
    by_type = {**server.model("first"), "model_platform": "", "model_type": 1}
    yield ok("reload: a type, as of old", lambda: server.reload(by_type))
    yield answers(server, "reload: and it answers", "first", 6)


def failing_model_rows(server: Server) -> Iterator[Row]:
    """New models that do not come up, and one that does."""
    server.publish("corrupt", "1", corrupt=True)
    (server.root / "bare").mkdir()
    server.publish("well", "1")
    first = server.model("first")
    for name in ("corrupt", "bare", "missing"):

        def send(name: str = name) -> Any:
            return server.reload(first, server.model(name))

        gist = f"1 model(s) did not become available: {{{name}: "
        yield Row(f"new model: {name}", send, "UNKNOWN", gist)
        yield gone(server, f"new model: {name} does not answer", name)
        yield answers(server, f"new model: beside {name} the others do", "first", 6)
    yield comes(server, "new model: the failed one has ended", "corrupt", v1=END)
    yield ok("new model: the failed ones taken out", lambda: server.reload(first))
    three = [server.model(name) for name in ("missing", "corrupt", "well")]
    gist = "2 model(s) did not become available: {corrupt: "
    yield Row("new model: two of three", lambda: server.reload(first, *three), "UNKNOWN", gist)
    yield answers(server, "new model: the third is there at once", "well", 1)
    yield ok("new model: what has failed is not new", lambda: server.reload(first, *three))


def status_rows(server: Server) -> Iterator[Row]:
    """What GetModelStatus tells, and what it does not."""

    def told(**spec: Any) -> list[tuple[int, int, int]]:
        found = server.status("first", **spec).model_version_status
        return [(v.version, v.state, v.status.error_code) for v in found]

    yield ok("status: one version", lambda: told(version=6), [(6, AVAILABLE, 0)])
    yield ok("status: one that has ended", lambda: told(version=2), [(2, END, 0)])
    gist = "Could not find version 99 of model first"
    yield Row("status: unknown version", lambda: told(version=99), "NOT_FOUND", gist)
    gist = "Could not find any versions of model nope"
    yield Row("status: unknown model", lambda: server.status("nope"), "NOT_FOUND", gist)
    yield Row("status: no model", server.status, REFUSED, "Missing ModelSpec")


def omission_rows(server: Server) -> Iterator[Row]:
    """Models that a configuration no longer lists."""
    yield ok("omitted: a model", lambda: server.reload(server.model("first")))
    yield comes(server, "omitted: it ends", "well", v1=END)
    yield gone(server, "omitted: it does not answer", "well")
    yield gone(server, "omitted: nor by number", "well", 1)
    yield answers(server, "omitted: the others do", "first", 6)
    again = server.model("first"), server.model("well")
    yield ok("omitted: and listed again", lambda: server.reload(*again))
    yield answers(server, "omitted: it is back at once", "well", 1)
    yield ok("omitted: all", lambda: server.reload_with({"model_config_list": {}}))
    states = {f"v{version}": END for version in range(6, 0, -1)}
    yield comes(server, "omitted: all end", "first", **states)
    yield gone(server, "omitted: none answers", "first")
    yield gone(server, "omitted: nor the last", "well")


def error_of(server: Server, name: str, version: int) -> tuple[int, str]:
    """Return the error that a version ended with."""
    (found,) = server.status(name, version=version).model_version_status
    return found.status.error_code, found.status.error_message


if __name__ == "__main__":
    main()
