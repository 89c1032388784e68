from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pool, json_format, text_format

from ladle.protos import (
    _pool,
    google_pb,
    health_pb,
    inference_pb,
    ladle_pb,
    services,
    serving_pb,
    tensorflow_pb,
)

MODULES = [google_pb, health_pb, inference_pb, ladle_pb, serving_pb, tensorflow_pb]


def test_a_message_class_is_made_once() -> None:
    assert serving_pb.PredictRequest is serving_pb.PredictRequest
    assert vars(serving_pb)["PredictRequest"] is serving_pb.PredictRequest
    assert serving_pb.PredictRequest.DESCRIPTOR.full_name == "tensorflow.serving.PredictRequest"


def test_every_way_to_a_message_gives_the_same_class() -> None:
    method = services.methods()["/tensorflow.serving.PredictionService/Predict"]
    assert method.request is serving_pb.PredictRequest
    assert type(serving_pb.PredictRequest().inputs["x"]) is tensorflow_pb.TensorProto


def test_enums_look_as_in_protocs_modules() -> None:
    assert tensorflow_pb.DT_FLOAT == 1
    assert tensorflow_pb.DataType.Name(1) == "DT_FLOAT"
    assert tensorflow_pb.DataType.Value("DT_FLOAT") == 1
    assert tensorflow_pb.DataType.DT_FLOAT == 1
    assert tensorflow_pb.Code.NOT_FOUND == tensorflow_pb.NOT_FOUND == 5
    assert serving_pb.ModelVersionStatus.State.AVAILABLE == serving_pb.ModelVersionStatus.AVAILABLE


@pytest.mark.parametrize("module", MODULES)
def test_an_unknown_name_is_an_attribute_error(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"{module.__name__}.*'Nonsense'"):
        _ = module.Nonsense


@pytest.mark.parametrize("module", MODULES)
def test_dir_lists_only_what_can_be_had(module: ModuleType) -> None:
    for name in dir(module):
        assert getattr(module, name) is not None or name.startswith("__")


def test_messages_stay_out_of_the_default_pool() -> None:
    """TensorFlow fills that one, and fails on a second definition of its messages."""
    assert ladle_pb.ModelCard().IsInitialized()
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("ladle.v1.ModelCard")


def test_importing_makes_no_class_and_imports_nothing_heavy() -> None:
    check = """
import sys
from ladle.protos import serving_pb, services
assert "PredictRequest" not in vars(serving_pb)
assert not {"grpc", "numpy", "tensorflow"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_missing_descriptors_tell_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"descriptors\.binpb\.zlib is missing.*make protos"):
        _pool.load(tmp_path / "descriptors.binpb.zlib")


def test_any_carries_our_messages() -> None:
    card = ladle_pb.ModelCard(json="{}")
    box = google_pb.Any()
    box.Pack(card)
    assert box.type_url == "type.googleapis.com/ladle.v1.ModelCard"
    assert box.Is(ladle_pb.ModelCard.DESCRIPTOR)
    assert not box.Is(serving_pb.SignatureDefMap.DESCRIPTOR)
    unpacked = ladle_pb.ModelCard()
    assert box.Unpack(unpacked)
    assert unpacked == card


def test_wrapped_numbers_tell_zero_from_absent() -> None:
    assert not serving_pb.ModelSpec().HasField("version")
    spec = serving_pb.ModelSpec(version=google_pb.Int64Value(value=0))
    assert spec.WhichOneof("version_choice") == "version"
    assert serving_pb.ModelSpec.FromString(spec.SerializeToString()).HasField("version")


def test_text_format_reads_an_any_with_our_pool() -> None:
    text = """
        platform_configs {
          key: "tensorflow"
          value { source_adapter_config {
            [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {
              legacy_config { batching_parameters { max_batch_size { value: 128 } } }
            }
          } }
        }"""
    parsed = text_format.Parse(
        text, serving_pb.PlatformConfigMap(), descriptor_pool=services.pool()
    )
    adapter = serving_pb.SavedModelBundleSourceAdapterConfig()
    assert parsed.platform_configs["tensorflow"].source_adapter_config.Unpack(adapter)
    assert adapter.legacy_config.batching_parameters.max_batch_size.value == 128


def test_json_format_writes_an_any_with_our_pool() -> None:
    response = serving_pb.GetModelMetadataResponse()
    response.metadata["ladle_model_card"].Pack(ladle_pb.ModelCard(json="{}"))
    written = json_format.MessageToDict(response, descriptor_pool=services.pool())
    assert written["metadata"]["ladle_model_card"]["json"] == "{}"


def test_methods_tell_all_that_a_transport_needs() -> None:
    predict = services.methods()["/tensorflow.serving.PredictionService/Predict"]
    assert (predict.service, predict.name) == ("tensorflow.serving.PredictionService", "Predict")
    assert predict.response is serving_pb.PredictResponse
    assert not predict.client_streaming
    assert not predict.server_streaming
    assert services.methods()["/grpc.health.v1.Health/Watch"].server_streaming


def test_methods_are_those_of_tensorflow_serving_the_health_check_and_our_own() -> None:
    names: dict[str, set[str]] = {}
    for path, method in services.methods().items():
        assert path == method.path
        names.setdefault(method.service, set()).add(method.name)
    assert names == {
        "grpc.health.v1.Health": {"Check", "Watch"},
        "inference.GRPCInferenceService": {
            "CudaSharedMemoryRegister",
            "CudaSharedMemoryStatus",
            "CudaSharedMemoryUnregister",
            "LogSettings",
            "ModelConfig",
            "ModelInfer",
            "ModelMetadata",
            "ModelReady",
            "ModelStatistics",
            "ModelStreamInfer",
            "RepositoryIndex",
            "RepositoryModelLoad",
            "RepositoryModelUnload",
            "ServerLive",
            "ServerMetadata",
            "ServerReady",
            "SystemSharedMemoryRegister",
            "SystemSharedMemoryStatus",
            "SystemSharedMemoryUnregister",
            "TraceSetting",
        },
        "inference.model_repository.ModelRepositoryService": {
            "RepositoryIndex",
            "RepositoryModelLoad",
            "RepositoryModelUnload",
        },
        "ladle.v1.StreamingPrediction": {"PredictInChunks", "PredictStream"},
        "ladle.v1.ModelRepository": {"ListModels", "LoadModel", "RescanModel", "UnloadModel"},
        "tensorflow.ProfilerService": {"Profile", "Terminate"},
        "tensorflow.serving.ModelService": {"GetModelStatus", "HandleReloadConfigRequest"},
        "tensorflow.serving.PredictionService": {
            "Classify",
            "GetModelMetadata",
            "MultiInference",
            "Predict",
            "Regress",
        },
        "tensorflow.serving.SessionService": {"SessionRun"},
    }


@pytest.mark.parametrize("module", MODULES)
def test_stubs_promise_what_the_module_has(module: ModuleType) -> None:
    stub = ast.parse(Path(str(module.__file__)).with_suffix(".pyi").read_text(encoding="utf-8"))
    promised = list(_public_names(stub))
    assert promised
    for path in promised:
        found: object = module
        for name in path:
            found = _attribute(found, name)
    assert {path[0] for path in promised} >= {name for name in dir(module) if name[0].isupper()}


def _attribute(owner: object, name: str) -> object:
    if isinstance(owner, type) and not hasattr(owner, name):
        owner = owner()  # fields are there only on instances
    return getattr(owner, name)


def _public_names(scope: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ...]]:
    for node in scope.body:
        name = getattr(node, "name", "") or ast.unparse(node).partition(" =")[0].partition(":")[0]
        if isinstance(node, ast.Import | ast.ImportFrom) or name.startswith("_"):
            continue
        yield (name,)
        if isinstance(node, ast.ClassDef):
            yield from ((name, *inner) for inner in _public_names(node))
