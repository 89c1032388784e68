"""ModelConfig: a model in Triton's terms, made of its signature and of how its batches form."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ladle.protos.datatypes import BY_NUMBER
from ladle.protos.inference_pb import (
    DataType,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelTransactionPolicy,
    ModelVersionPolicy,
)
from ladle.protos.inference_pb import ModelConfig as ModelConfigProto
from ladle.protos.model_card import CARD_PATH
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.trust import Standing
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.servable import Model, Signature, TensorSpec
from ladle.server.core.sources.version_policy import Latest, Specific, VersionPolicy
from ladle.server.rpc.middleware import ObservedCall
from ladle.server.rpc.open_inference import names
from ladle.server.rpc.open_inference.classification import labels_of
from ladle.server.rpc.open_inference.server_methods import PLATFORM
from ladle.server.rpc.request import parse

_CHANNELS = (1, 3, 4)  # of pictures: grey, colours, and colours with transparency


class ModelConfigMethod:
    """Answers ModelConfig calls. Thread-safe; waits only for a model that is loaded on demand."""

    def __init__(
        self, manager: Manager, configured: Callable[[], Mapping[str, ModelConfig]]
    ) -> None:
        """`configured` returns the models as the server's own configuration has them."""
        self._manager = manager
        self._configured = configured

    def __call__(self, call: ObservedCall) -> bytes:
        """Return how a signature of a version is called, and how its batches form.

        Raises:
            NotFound: There is no such model, or no version of it can be had.
            Unavailable: The version that is asked for is not loaded.
            InvalidArgument: There is no such signature.
        """
        request = parse(ModelConfigRequest, call.request)
        name, spec = names.parse_known(request.name, request.version, self._manager)
        call.observation.model = name.model
        with names.acquire(self._manager, name, spec, call) as handle:
            call.observation.served_by(handle.id)
            signature = names.find_signature(handle.servable, name.signature)
            config = _config(name.given, handle.servable, signature)
        configured = self._configured().get(name.model)
        if configured is not None:
            config.version_policy.CopyFrom(_policy(configured.policy))
        return ModelConfigResponse(config=config).SerializeToString()


def _config(given: str, model: Model, signature: Signature) -> ModelConfigProto:
    batched = signature.batchable
    options = model.options if isinstance(model, BatchingServable) else None
    size = (options or BatchOptions()).max_batch_size
    config = ModelConfigProto(
        name=given,
        platform=PLATFORM,
        backend="tensorflow",
        max_batch_size=size if batched else 0,
        default_model_filename="saved_model.pb",
        instance_group=[
            ModelInstanceGroup(
                name=given,
                kind=ModelInstanceGroup.KIND_CPU,
                count=(options or BatchOptions()).num_batch_threads,
            )
        ],
        model_transaction_policy=ModelTransactionPolicy(decoupled=False),
    )
    config.parameters["TF_SIGNATURE_DEF"].string_value = signature.name
    config.parameters["TF_GRAPH_TAG"].string_value = "serve"
    for alias, spec in signature.inputs.items():
        if spec.data_type in BY_NUMBER:
            dims = _dims(spec, batched=batched)
            config.input.add(
                name=alias,
                data_type=_data_type(spec),
                dims=dims,
                format=_format(dims),
                optional=alias in signature.defaults,
            )
    for alias in signature.carried_outputs:
        spec = signature.outputs[alias]
        labels = labels_of(model.card_json, alias, spec.shape, batched=batched)
        config.output.add(
            name=alias,
            data_type=_data_type(spec),
            dims=_dims(spec, batched=batched),
            label_filename=CARD_PATH if labels else "",
        )
    if options is not None and batched and _runs_in_batches(model, signature):
        config.dynamic_batching.CopyFrom(
            ModelDynamicBatching(
                preferred_batch_size=options.allowed_batch_sizes,
                max_queue_delay_microseconds=round(options.batch_timeout_s * 1e6),
            )
        )
    return config


def _runs_in_batches(model: Model, signature: Signature) -> bool:
    if not isinstance(model, BatchingServable):
        return False
    status = model.standings().get(signature.name)
    return status is not None and status.standing is not Standing.ALONE


def _dims(spec: TensorSpec, *, batched: bool) -> tuple[int, ...]:
    shape = (-1,) if spec.shape is None else spec.shape
    return shape[1:] if batched else shape


def _format(dims: tuple[int, ...]) -> int:
    is_picture = len(dims) == 3 and dims[-1] in _CHANNELS
    return ModelInput.FORMAT_NHWC if is_picture else ModelInput.FORMAT_NONE


def _data_type(spec: TensorSpec) -> int:
    name = BY_NUMBER[spec.data_type].name
    return DataType.Value("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}")


def _policy(policy: VersionPolicy) -> ModelVersionPolicy:
    if isinstance(policy, Latest):
        latest = ModelVersionPolicy.Latest(num_versions=policy.count)
        return ModelVersionPolicy(latest=latest)
    if isinstance(policy, Specific):
        specific = ModelVersionPolicy.Specific(versions=sorted(policy.versions))
        return ModelVersionPolicy(specific=specific)
    return ModelVersionPolicy(all=ModelVersionPolicy.All())
