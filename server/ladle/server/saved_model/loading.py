"""Loads a SavedModel's folder into a servable."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ladle.protos import dtypes, tensors
from ladle.protos.files.regular_file import open_regular
from ladle.protos.graphs.pruning import prune
from ladle.protos.graphs.restoring import initialises
from ladle.protos.model_card import CARD_PATH, MAX_CARD_BYTES, ModelCard
from ladle.protos.tensorflow_pb import ConfigProto, SignatureDef, TensorInfo, TensorProto
from ladle.server.core.errors import FailedPrecondition, NotFound, ServingError
from ladle.server.core.servable import Model, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.custom_operations import advice
from ladle.server.saved_model.errors import load_error
from ladle.server.saved_model.memory import drop_graph
from ladle.server.saved_model.object_servable import ObjectServable, load_objects
from ladle.server.saved_model.ranks import needs_all_dimensions
from ladle.server.saved_model.reaching_out import warn_of_reaching_out, without_python
from ladle.server.saved_model.runtime import find_op_def, saved_model_loader, tensorflow
from ladle.server.saved_model.servable import SavedModelServable
from ladle.server.saved_model.state import with_state
from ladle.server.saved_model.variables import without_value

logger = logging.getLogger(__name__)

TFLITE_FILE = "model.tflite"
"""A model in TensorFlow Lite's form, in a version's folder."""

# How TF2 marks the operation that initialises a model: as a signature, which it is not.
_INIT_OP = "__saved_model_init_op"

# References to what lives inside the session: DT_RESOURCE and DT_VARIANT.
_HANDLES = (20, 21)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Which graph of a SavedModel is loaded, and into what kind of session."""

    tags: tuple[str, ...] = ("serve",)
    config: ConfigProto = field(default_factory=ConfigProto)


def load_saved_model(
    servable_id: ServableId, path: Path, options: LoadOptions, card: ModelCard | None = None
) -> Model:
    """Return the SavedModel in `path`, restored and initialised; blocks.

    `card` is its model card, where it brings none. It runs in a session.
    Where a session restores less than the signatures read, it runs as TensorFlow's object loader
    restores it.

    Raises:
        ServingError: It is not a whole SavedModel, or TensorFlow can't load it.
    """
    if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        other = ""
        if (path / TFLITE_FILE).is_file():
            other = f"; {TFLITE_FILE} is there: --prefer_tflite_model serves it"
        raise NotFound(f"{servable_id}: expected a SavedModel, found no saved_model.pb{other}")
    try:
        return _load(servable_id, path, options, card)
    except Exception as error:
        failure = load_error(error)
        reason = advice(failure.message) or failure.message
        raise ServingError(
            f"{servable_id}: the SavedModel can't be loaded: {reason}", failure.code
        ) from error


def _load(
    servable_id: ServableId, path: Path, options: LoadOptions, card: ModelCard | None
) -> Model:
    card_json = read_card(path)
    if card_json is None and card is not None:
        card_json = card.to_json()
    tf1 = tensorflow().compat.v1
    config = tf1.ConfigProto.FromString(options.config.SerializeToString())
    session = tf1.Session(graph=tf1.Graph(), config=config)
    try:
        loader, tags = saved_model_loader(path), list(options.tags)
        meta_graph = loader.get_meta_graph_def_from_tags(tags)
        warn_of_reaching_out(servable_id, meta_graph)
        prune(meta_graph)
        saver, _ = loader.load_graph(session.graph, tags)
        loader.restore_variables(session, saver)
        if initialises(meta_graph):  # each run compiles what it runs, if that is nothing
            loader.run_init_ops(session, tags)
        definitions = {
            name: definition.SerializeToString()
            for name, definition in meta_graph.signature_def.items()
        }
        graph_def = meta_graph.graph_def
        signatures = callable_signatures(servable_id, definitions, session.graph)
        signatures = without_python(servable_id, signatures, graph_def)
        signatures = with_state(signatures, graph_def, find_op_def)
        missing = without_value(session, signatures.values(), meta_graph)
        all_dimensions = needs_all_dimensions(graph_def)
        if not missing:
            drop_graph(session)
            return SavedModelServable(
                session,
                signatures,
                definitions,
                card_json,
                run_inline=options.config.inter_op_parallelism_threads in (0, 1),
                all_dimensions=all_dimensions,
            )
        if not meta_graph.HasField("object_graph_def"):
            raise _without_value(missing[0])
    except BaseException:
        session.close()
        raise
    session.close()
    try:
        objects = load_objects(path, options.tags)
    except Exception as error:
        raise _without_value(missing[0]) from error
    logger.warning(
        "restored as objects, which makes each run slower, since the graph does not restore its "
        "variables; model.export() of Keras writes a graph that does "
        "model=%s version=%d variables=%d first=%s",
        *servable_id,
        len(missing),
        missing[0],
    )
    return ObjectServable(
        objects, signatures, definitions, card_json, all_dimensions=all_dimensions
    )


def _without_value(variable: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the variable {variable!r} has no value after restoring; save the model again, with "
        "model.export() where it is a Keras model"
    )


def callable_signatures(
    servable_id: ServableId, definitions: Mapping[str, bytes], graph: Any
) -> dict[str, Signature]:
    """Return the signatures that requests can call.

    These are left out, each with a line in the log: signatures with sparse or composite inputs,
    which no request can carry; signatures without any output that an answer can carry; signatures
    that name tensors which the graph lacks; and signatures with a default value that can't be
    read. TF2's own `__saved_model_init_op`, which has no tensors at all, goes without a word.
    """
    signatures = {}
    for name, definition in definitions.items():
        try:
            signatures[name] = _signature(name, definition, graph)
        except _NotCallable as reason:
            if name != _INIT_OP:
                logger.warning(
                    "signature left out model=%s version=%d signature=%s reason=%s",
                    *servable_id,
                    name,
                    reason,
                )
    return signatures


class _NotCallable(Exception):
    """Why no request can call a signature."""


def _signature(name: str, definition: bytes, graph: Any) -> Signature:
    proto = SignatureDef.FromString(definition)
    signature = Signature(
        name=name,
        inputs={alias: _spec(alias, info, graph) for alias, info in proto.inputs.items()},
        outputs={alias: _output(alias, info, graph) for alias, info in proto.outputs.items()},
        method_name=proto.method_name,
        defaults={alias: _default(alias, value) for alias, value in proto.defaults.items()},
    )
    if signature.outputs and all(spec.unanswerable for spec in signature.outputs.values()):
        alias, spec = next(iter(signature.outputs.items()))
        raise _NotCallable(f"the output {alias!r} is {spec.unanswerable}")
    return signature


def _default(alias: str, value: TensorProto) -> NDArray[Any]:
    try:
        return tensors.to_array(value)
    except tensors.TensorError as error:
        raise _NotCallable(f"the default of {alias!r} can't be read: {error}") from None


def _output(alias: str, info: TensorInfo, graph: Any) -> TensorSpec:
    encoding = info.WhichOneof("encoding")
    if encoding in ("coo_sparse", "composite_tensor"):
        kind = "sparse" if encoding == "coo_sparse" else "composite"
        return TensorSpec(info.dtype, None, unanswerable=f"a {kind} tensor")
    spec = _spec(alias, info, graph)
    if spec.data_type in _HANDLES:
        return replace(spec, unanswerable=f"a {dtypes.name(spec.data_type)}")
    return spec


def _spec(alias: str, info: TensorInfo, graph: Any) -> TensorSpec:
    encoding = info.WhichOneof("encoding")
    if encoding != "name":
        raise _NotCallable(f"{alias!r} is a {encoding or 'nameless'} tensor")
    try:
        # As upstream, which looks at the graph alone: a signature's dtype may be missing or wrong.
        data_type = graph.get_tensor_by_name(info.name).dtype.as_datatype_enum
    except (KeyError, ValueError):
        raise _NotCallable(f"{alias!r} names {info.name!r}, which is no tensor of the graph") from (
            None
        )
    return TensorSpec(
        data_type=dtypes.without_ref(data_type),
        shape=tensors.shape_of(info.tensor_shape),
        feed_name=info.name,
    )


def read_card(path: Path) -> str | None:
    """Return the model card's text; one that is no card is left out, with a warning."""
    card = path / CARD_PATH
    try:
        with open_regular(card) as file:
            text = file.read(MAX_CARD_BYTES + 1)
        if len(text) > MAX_CARD_BYTES:
            raise ValueError(f"expected at most {MAX_CARD_BYTES} bytes")
        ModelCard.from_json(text)
        return text.decode()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("model card left out path=%s error=%s", card, error)
        return None
