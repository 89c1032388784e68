from __future__ import annotations

from pathlib import Path

import pytest

from ladle.protos.serving_pb import ModelServerConfig
from ladle.server.core.errors import FailedPrecondition, InvalidArgument
from ladle.server.core.models.config import (
    ModelConfig,
    check_labels,
    from_proto,
    model_from_proto,
    read_text,
    to_proto,
)
from ladle.server.core.sources.version_policy import All, Latest, Specific, VersionPolicy
from ladle.store.url import StoreUrl


def listed(*models: str) -> str:
    return "model_config_list {" + "".join(f"config {{ {model} }}" for model in models) + "}"


def model(more: str = "", name: str = "m") -> str:
    return f'name: "{name}" base_path: "/{name}" model_platform: "tensorflow" {more}'


def test_a_model_config_file_lists_models() -> None:
    assert read_text(listed(model(), model(name="n"))) == (
        ModelConfig("m", Path("/m")),
        ModelConfig("n", Path("/n")),
    )
    assert read_text("model_config_list {}") == ()


def test_the_deprecated_type_stands_for_the_platform() -> None:
    (read,) = read_text(listed('name: "m" base_path: "/m" model_type: TENSORFLOW'))
    assert read.name == "m"


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", Latest(1)),
        ("model_version_policy { latest {} }", Latest(1)),
        ("model_version_policy { latest { num_versions: 3 } }", Latest(3)),
        ("model_version_policy { all {} }", All()),
        (
            "model_version_policy { specific { versions: 2 versions: 5 } }",
            Specific(frozenset({2, 5})),
        ),
        ("model_version_policy { specific {} }", Specific(frozenset())),
    ],
)
def test_policies_and_the_way_back(text: str, policy: VersionPolicy) -> None:
    (read,) = read_text(listed(model(text + 'version_labels { key: "stable" value: 2 }')))

    assert read == ModelConfig("m", Path("/m"), policy, {"stable": 2})
    assert model_from_proto(to_proto(read)) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {", "Error parsing text-format tensorflow.serving.ModelServerConfig"),
        ("nonsense: 1", "Error parsing text-format tensorflow.serving.ModelServerConfig"),
        ("", "expected a ModelServerConfig with model_config_list, got an empty one"),
        ("custom_model_config {}", "with model_config_list, got custom_model_config"),
        (listed(model(), model()), "Illegal to list model m multiple times in config list"),
        (listed(model(name="")), "expected a model with a name"),
        (listed('name: "m" base_path: "here" model_platform: "tensorflow"'), "an absolute path"),
        (listed('name: "m" model_platform: "tensorflow"'), "an absolute path or URI; got"),
        (listed('name: "m" base_path: "hdfs://b/m" model_platform: "tensorflow"'), "s3://BUCKET"),
        (listed('name: "m" base_path: "/m"'), 'expected model_platform "tensorflow", got none'),
        (listed('name: "m" base_path: "/m" model_platform: "x"'), '"tensorflow", got x'),
        (listed(model("model_type: TENSORFLOW")), "Illegal setting both"),
        (listed(model("logging_config {}")), "No request-logger-creator provided"),
        (listed(model('version_labels { key: "a" value: -1 }')), "label a has a negative version"),
    ],
)
def test_what_is_not_legal_is_said_so(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        read_text(text)
    assert message in error.value.message


def test_a_message_that_sets_nothing_is_no_empty_list() -> None:
    """An empty list unloads everything: nobody should do that by a message left unfilled."""
    with pytest.raises(InvalidArgument):
        from_proto(ModelServerConfig())


@pytest.mark.parametrize("allow_unavailable", [False, True])
@pytest.mark.parametrize(
    ("label", "version", "strictly", "leniently"),
    [
        pytest.param("new", 1, True, True, id="a new label on what is available"),
        pytest.param("new", 2, False, True, id="a new label on what is not"),
        pytest.param("used", 1, True, True, id="a label that stays where it is"),
        pytest.param("lost", 3, True, True, id="a label that stays, though its version is gone"),
        pytest.param("lost", 1, True, True, id="moving a label to what is available"),
        pytest.param("used", 2, False, False, id="moving a label to what is not"),
    ],
)
def test_labels_may_not_point_nowhere(
    allow_unavailable: bool, label: str, version: int, strictly: bool, leniently: bool
) -> None:
    def check() -> None:
        check_labels(
            [ModelConfig("m", Path("/m"), labels={label: version})],
            {"m": {"used": 1, "lost": 3}},
            lambda name, version: (name, version) == ("m", 1),
            allow_unavailable=allow_unavailable,
        )

    if leniently if allow_unavailable else strictly:
        check()
    else:
        with pytest.raises(FailedPrecondition, match=f"assign label to version {version} of model"):
            check()


def test_a_base_path_may_be_in_a_store() -> None:
    (read,) = read_text(listed('name: "m" base_path: "s3://b/m/" model_platform: "tensorflow"'))
    assert read.base_path == StoreUrl("s3", "b", "m")
    assert to_proto(read).base_path == "s3://b/m"
