"""Requests that differ in nothing but the bytes of their tensors: handled as one.

The first is read and checked as any other. The rest have the same bytes around their tensors, and
as many bytes in them. So what holds for the first holds for all, and for those of later groups of
the same template (`plans.py`). Whatever is not of that kind is handled one by one, and so is
whatever is refused: each caller gets the reason on the usual path.

An API's method is an AlikeMethod around its InferMethod. All else is here, once for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar
from weakref import ref

import numpy as np

from ladle.protos.serving_pb import ModelSpec
from ladle.server.call import Group
from ladle.server.core.errors import ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.observation import Observation, Observer
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.servable import Arrays, Model
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.alike.plans import Answers, Known, Part, Plan, Plans
from ladle.server.rpc.alike.requests import Requests
from ladle.server.rpc.queued import InferMethod
from ladle.server.rpc.request import Invocation, find_version, priority_of

logger = logging.getLogger(__name__)

R = TypeVar("R")  # a request as its API's parser returns it


class AlikeMethod(Protocol[R]):
    """What requests of a method that are alike have in common. Thread-safe, and without state."""

    @property
    def infer(self) -> InferMethod[R, bytes]:
        """How each of them is read and answered by itself."""

    @property
    def dtypes(self) -> Sequence[np.dtype[Any] | None]:
        """Of each path to contents the only dtype whose bytes are there; None: they are of any."""

    def is_lasting(self, request: R) -> bool:
        """Whether requests of the same bytes name the same model and version at any time."""

    def plan(self, model: Model, request: R, servable_id: ServableId) -> tuple[Invocation, Answers]:
        """Return what to run for one of them, and what puts the answers to all.

        Args:
            model: what runs it.
            request: the request.
            servable_id: which version the model is.

        Raises:
            ServingError: The request does not fit the model.
        """

    def named(
        self, request: R, contents: Sequence[tuple[int, bytes, bytes]]
    ) -> Sequence[str] | None:
        """Return which input each content is; None where requests go one by one.

        Args:
            request: one of them, which fits the model.
            contents: those of `request`, as Group says.
        """


def handling(
    manager: Manager,
    method: AlikeMethod[R],
    observer: Observer,
    shadows: ShadowRuns | None = None,
) -> Callable[[Group], bool]:
    """Return what handles requests of a method that are alike, as `call.Alike` says."""
    plans = Plans()

    def handle(group: Group) -> bool:
        # Whoever wants each request by itself gets them so; roll-outs and shadows choose for each.
        if not observer.takes_many or manager.router.rollouts or (shadows and shadows.lanes):
            return False
        try:
            return _submit(manager, method, observer, plans, group)
        except ServingError:
            return False
        except Exception:
            logger.exception("requests that are alike could not be handled as one")
            return False

    return handle


def _submit(
    manager: Manager, method: AlikeMethod[R], observer: Observer, plans: Plans, group: Group
) -> bool:
    """Put the requests into their queue; False: they are none that can go as one."""
    infer = method.infer
    observation = Observation(infer.path.rpartition("/")[2], "GRPC", b"")
    observation.request_bytes = group.nbytes
    template = group.template
    known = plans.get(template)
    request: R | None = None
    if known is None:
        request = infer.parse(group.request, group.metadata)
        spec = ModelSpec()
        spec.CopyFrom(infer.model_spec(request))  # the rest of the message is not kept
        known = Known(spec, priority_of(group.metadata))
    observation.priority = known.priority
    handle = find_version(manager, known.spec)
    if not isinstance(handle, Handle):
        return False
    if not handle.retain(len(group) - 1):  # each of them counts as a request under way
        handle.release()
        return False
    taken = False
    try:
        observation.served_by(handle.id)
        plan = known.plan
        if plan is None or plan.servable() is not handle.servable:
            if request is None:
                request = infer.parse(group.request, group.metadata)
            plan = _plan(method, request, handle, group)
            if plan is None:
                return False
            if method.is_lasting(request):
                plans.keep(template, known._replace(plan=plan))
        if not handle.servable.takes_alike(plan.signature, plan.outputs):
            return False
        observation.signatures = plan.signature.names
        requests = Requests(group, observation, observer, handle, plan, infer.path)
        pending = handle.servable.submit_alike(plan.signature, plan.inputs, plan.outputs, requests)
        taken = pending is not None
    finally:
        if not taken:
            handle.release(len(group))
    if pending is None:
        return False
    requests.expect(pending)
    return True


def _plan(method: AlikeMethod[R], request: R, handle: Handle, group: Group) -> Plan | None:
    """Return what runs for the requests; None where they can't go as one."""
    (signature, inputs, outputs), answers = method.plan(handle.servable, request, handle.id)
    contents = group.contents
    names = method.named(request, contents)
    parts = None if names is None else _parts(names, inputs, contents, method.dtypes)
    if parts is None:
        return None
    shells = {
        alias: np.broadcast_to(np.zeros((), array.dtype), array.shape)
        for alias, array in inputs.items()
    }
    return Plan(ref(handle.servable), signature, shells, outputs, parts, answers)


def _parts(
    names: Sequence[str],
    inputs: Arrays,
    contents: Sequence[tuple[int, bytes, bytes]],
    dtypes: Sequence[np.dtype[Any] | None],
) -> dict[str, Part] | None:
    """Return where each input comes from; None where one is not just the bytes of a content.

    Whether bytes are right for a bool or for strings depends on what they are.
    """
    if len(names) != len(inputs) or inputs.keys() != set(names):
        return None
    parts = {}
    for number, (name, (path, _, data)) in enumerate(zip(names, contents, strict=True)):
        array = inputs[name]
        if array.dtype.kind in "bO" or dtypes[path] not in (None, array.dtype):
            return None
        if array.tobytes() != data:
            return None
        parts[name] = Part(number, array.dtype, array.shape)
    return parts
