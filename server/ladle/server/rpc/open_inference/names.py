"""Which model, version and signature a caller means by the protocol's two texts."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import NamedTuple

from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.errors import (
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    Unimplemented,
)
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.servable import DEFAULT_SIGNATURE, Model, Signature
from ladle.server.rpc.request import Waiter, earlier

_LARGEST_VERSION = (1 << 63) - 1
# How long a question about a model holds a thread while the model loads.
_LONGEST_LOAD_S = 10.0


class Name(NamedTuple):
    """A model's name as a caller gives it: `NAME`, or `NAME:SIGNATURE`."""

    given: str
    model: str
    signature: str
    """Empty where the name has none."""


def parse_name(given: str, manager: Manager) -> Name:
    """Split a name at its last colon, unless a model is configured under the whole text.

    Raises:
        InvalidArgument: There is no name.
    """
    if not given:
        raise InvalidArgument("Missing model name in request")
    model, colon, signature = given.rpartition(":")
    if not colon or not model or manager.is_known(given):
        return Name(given, given, "")
    return Name(given, model, signature)


def model_of(manager: Manager, given: str) -> str:
    """Return the model that a name stands for; empty for an empty name."""
    return parse_name(given, manager).model if given else ""


def parse_version(name: Name, version: str) -> ModelSpec:
    """Return what a model's name and a version's text stand for: a number, a label, or nothing.

    Raises:
        InvalidArgument: The version is a number out of range.
    """
    spec = ModelSpec(name=name.model)
    if not version:
        return spec
    if version.removeprefix("-").isdecimal() and version.isascii():
        if version.startswith("-"):
            raise InvalidArgument(
                f"invalid model version specified '{version}' , version should be an integral "
                "value > 0"
            )
        if len(version) > 19 or int(version) > _LARGEST_VERSION:
            raise not_a_version(version)
        spec.version.value = int(version)
    else:
        spec.version_label = version
    return spec


def not_a_version(version: str) -> InvalidArgument:
    """Return the error of a version's text that is neither a number nor a label of the model."""
    return InvalidArgument(
        f"failed to get model version from specified version string '{version}', version should "
        "be an integral value > 0 or a label"
    )


def resolve_label(manager: Manager, spec: ModelSpec) -> ModelSpec:
    """Return the spec with a label's version in the label's place.

    Raises:
        InvalidArgument: The model has no such label.
    """
    if spec.WhichOneof("version_choice") != "version_label":
        return spec
    label = spec.version_label
    version = manager.labels(spec.name).get(label)
    if version is None and manager.is_unloaded(spec.name):
        raise Unavailable(
            f"model '{spec.name}' is not loaded, and until then its labels are not known; "
            "ask for a version, or for none"
        )
    if version is None:
        raise not_a_version(label)
    resolved = ModelSpec(name=spec.name)
    resolved.version.value = version
    return resolved


def parse_known(given: str, version: str, manager: Manager) -> tuple[Name, ModelSpec]:
    """Return what both texts stand for, a label's version in the label's place.

    Raises:
        InvalidArgument: There is no name, or the version is out of range or an unknown label.
        NotFound: No model is configured under the name.
    """
    if not version and given and manager.is_known(given):
        return _newest(given)  # the usual case
    name = parse_name(given, manager)
    spec = parse_version(name, version)
    if not manager.is_known(name.model):
        raise missing(name, spec, manager)
    return name, resolve_label(manager, spec)


@lru_cache(maxsize=1024)
def _newest(model: str) -> tuple[Name, ModelSpec]:
    return Name(model, model, ""), ModelSpec(name=model)


def acquire(manager: Manager, name: Name, spec: ModelSpec, waiter: Waiter) -> Handle:
    """Return a handle on the version that both texts stand for.

    Never blocks, but while a model loads that nobody has asked for before.

    Raises:
        NotFound: There is no such model, or no version of it can be had.
        Unavailable: The version that is asked for is not loaded.
    """
    wanted = spec.version.value if spec.HasField("version") else None
    if manager.is_unloaded(name.model):
        limit = time.monotonic() + _LONGEST_LOAD_S
        manager.wait_for_first(name.model, earlier(waiter.deadline, limit), waiter.on_end)
    try:
        return manager.acquire(name.model, wanted)
    except NotFound:
        raise missing(name, spec, manager) from None


def missing(name: Name, spec: ModelSpec, manager: Manager) -> ServingError:
    """Return why a version can't be had, in the protocol's words; scripts search for them."""
    unknown = f"Request for unknown model: '{name.given}'"
    if not manager.is_known(name.model):
        return NotFound(f"{unknown} is not found")
    versions = {status.version for status in manager.status(name.model)}
    if spec.WhichOneof("version_choice") == "version":
        version = spec.version.value
        if version not in versions:
            return NotFound(f"{unknown} version {version} is not found")
        return Unavailable(f"{unknown} version {version} is not at ready state")
    return NotFound(f"{unknown} has no available versions")


def find_signature(model: Model, wanted: str) -> Signature:
    """Return the signature that is wanted; without a name the model's default, or the only one.

    Raises:
        InvalidArgument: There is no such signature, or several and none is the default.
        Unimplemented: The signature has an input that the protocol has no datatype for.
    """
    name = wanted or model.default_signature or DEFAULT_SIGNATURE
    signature = model.signatures.get(name)
    if signature is None and not wanted and len(model.signatures) == 1:
        (signature,) = model.signatures.values()
    if signature is None:
        raise InvalidArgument(
            f'Serving signature key "{name}" not found. The model has {sorted(model.signatures)}'
        )
    if alias := signature.uncarried_input:
        raise Unimplemented(
            f"input '{alias}' of signature '{signature.name}' is {signature.inputs[alias]}, which "
            "has no datatype in the Open Inference Protocol"
        )
    return signature
