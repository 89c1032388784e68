"""Kubernetes, KServe and Compose files against their schemas, and against the server's flags."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import dashboard
import jsonschema
import pytest
import yaml
from deploy.schemas import Schemas

from ladle.server import Config
from ladle.server.flags import settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MONITORING = DEPLOY / "kubernetes" / "monitoring"
KUBERNETES = sorted(
    path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.stem != "kustomization"
)
# The oldest version with gRPC probes that needed no feature gate; besides, the newest is tried.
OLDEST = "1.27"
# What a serving runtime may have, by KServe's definition of it (v1alpha1.ServingRuntimeSpec), as
# far as it is used or near to what is used. Its containers are Kubernetes's own.
SERVING_RUNTIME = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "serving.kserve.io/v1alpha1"},
        "kind": {"const": "ServingRuntime"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["supportedModelFormats", "containers"],
            "properties": {
                "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "supportedModelFormats": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name"],
                        "properties": {
                            "name": {"type": "string"},
                            "version": {"type": "string"},
                            "autoSelect": {"type": "boolean"},
                            "priority": {"type": "integer", "minimum": 1},
                        },
                    },
                },
                "protocolVersions": {
                    "type": "array",
                    "items": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
                },
                "multiModel": {"type": "boolean"},
                "disabled": {"type": "boolean"},
                "replicas": {"type": "integer", "minimum": 0},
                "containers": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                "volumes": {"type": "array", "items": {"type": "object"}},
                "imagePullSecrets": {"type": "array", "items": {"type": "object"}},
            },
        },
    },
}


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def config_of(*arguments: str) -> Config:
    """What the server makes of the arguments, as the image passes them."""
    first = ("--model_base_path=/models/model",)
    return Config(**settings([*first, *arguments]))


@pytest.fixture(scope="module")
def deployment() -> Any:
    return loaded(DEPLOY / "kubernetes" / "deployment.yaml")


@pytest.fixture(scope="module")
def runtime() -> Any:
    return loaded(DEPLOY / "kserve" / "serving-runtime.yaml")


@pytest.mark.parametrize("version", [OLDEST, "newest"])
@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_takes_the_manifests(schemas: Schemas, path: Path, version: str) -> None:
    schemas.validate(loaded(path), schemas.newest if version == "newest" else version)


def test_the_schemas_find_mistakes(schemas: Schemas, deployment: Any) -> None:
    probe = deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
    probe["grcp"] = probe.pop("grpc")
    try:
        with pytest.raises(jsonschema.ValidationError, match="grcp"):
            schemas.validate(deployment, schemas.newest)
    finally:
        probe["grpc"] = probe.pop("grcp")


def test_kserve_takes_the_runtime(schemas: Schemas, runtime: Any) -> None:
    jsonschema.validate(runtime, SERVING_RUNTIME)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "as-kserve-makes-it"},
        "spec": {
            "containers": runtime["spec"]["containers"],
            "volumes": runtime["spec"]["volumes"],
        },
    }
    schemas.validate(pod, schemas.newest)


def test_the_runtime_listens_where_kserve_calls(runtime: Any) -> None:
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    config = config_of(*(arg.replace("{{.Name}}", "m") for arg in container["args"]))
    assert (config.port, config.rest_api_port) == (9000, 8080)
    assert str(config.base_path) == "/mnt/models"
    assert container["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
    assert container["readinessProbe"]["grpc"]["port"] == config.port
    # Kubernetes kills after 30 s where nobody says otherwise, and KServe doesn't.
    assert config.drain_grace_seconds < 29


def test_the_runtime_announces_the_protocols_that_are_served(runtime: Any) -> None:
    assert runtime["spec"]["protocolVersions"] == ["v1", "v2", "grpc-v1", "grpc-v2"]
    (container,) = runtime["spec"]["containers"]
    assert config_of(*container["args"]).enable_open_inference


def test_a_pod_is_given_the_time_that_its_server_takes_to_drain(deployment: Any) -> None:
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain_s = config_of(*container["args"]).drain_grace_seconds
    assert pod["terminationGracePeriodSeconds"] > drain_s + 5
    liveness = container["livenessProbe"]
    killed_after_s = liveness["periodSeconds"] * liveness["failureThreshold"]
    assert killed_after_s > pod["terminationGracePeriodSeconds"]
    readiness = container["readinessProbe"]
    # A drain takes requests for a third of its time, 5 s at most: by then nobody should send any.
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= min(5, drain_s / 3)


def test_connections_end_in_time_for_callers_to_see_new_pods(deployment: Any, runtime: Any) -> None:
    """A gRPC client keeps its connection, and would never learn of pods that came later."""
    for manifest in deployment["spec"]["template"]["spec"], runtime["spec"]:
        (container,) = manifest["containers"]
        arguments = dict(
            config_of(*(a.replace("{{.Name}}", "m") for a in container["args"])).channel_arguments
        )
        assert arguments["grpc.max_connection_age_ms"] == 30 * 60 * 1000
        # What is under way when a connection ends has this time.
        assert arguments["grpc.max_connection_age_grace_ms"] == 5 * 60 * 1000


def test_one_slow_answer_takes_no_pod_out(deployment: Any) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["failureThreshold"] > 1


def test_probes_ask_what_the_server_answers(deployment: Any) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "http": 8501}
    probes = [container[f"{kind}Probe"]["grpc"] for kind in ("startup", "readiness", "liveness")]
    assert [probe["port"] for probe in probes] == [ports["grpc"]] * 3
    # The whole serves while a model does, ModelService as long as the process answers.
    assert [probe.get("service", "") for probe in probes] == ["", "", "ModelService"]


def test_the_service_names_every_pod(deployment: Any) -> None:
    service = loaded(DEPLOY / "kubernetes" / "service.yaml")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert {p["targetPort"] for p in service["spec"]["ports"]} == {"grpc", "http"}


@pytest.mark.parametrize("folder", [DEPLOY / "kubernetes", MONITORING], ids=lambda f: f.name)
def test_every_manifest_is_applied_with_its_folder(folder: Path) -> None:
    listed = loaded(folder / "kustomization.yaml")
    generated = [f for one in listed.get("configMapGenerator", ()) for f in one["files"]]
    assert all((folder / name).is_file() for name in [*listed["resources"], *generated])
    there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed["resources"]) == there


def test_what_is_applied_is_about_the_same_pods(deployment: Any) -> None:
    labels = deployment["spec"]["selector"]["matchLabels"]
    folder = DEPLOY / "kubernetes"
    assert loaded(folder / "network-policy.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    assert loaded(folder / "disruption-budget.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert loaded(MONITORING / "pod-monitor.yaml")["spec"]["selector"]["matchLabels"] == labels
    scaled = loaded(folder / "autoscaler.yaml")["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["minReplicas"] == deployment["spec"]["replicas"]
    (claimed,) = [v for v in pod_volumes(deployment) if "persistentVolumeClaim" in v]
    claim = loaded(folder / "storage.yaml")["metadata"]["name"]
    assert claimed["persistentVolumeClaim"]["claimName"] == claim


def pod_volumes(deployment: Any) -> list[Any]:
    volumes: list[Any] = deployment["spec"]["template"]["spec"]["volumes"]
    return volumes


def test_alerts_ask_for_metrics_that_the_server_has() -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    (group,) = loaded(MONITORING / "rules.yaml")["spec"]["groups"]
    for rule in group["rules"]:
        asked = set(re.findall(r"\bladle_\w+", rule["expr"]))
        assert asked, rule["alert"]
        for name in asked:
            assert f"`{name.removesuffix('_bucket')}`" in documented, name


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool; `.ci/debian-packages` installs it")
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(loaded(MONITORING / "rules.yaml")["spec"]))
    done = subprocess.run(
        [promtool, "check", "rules", str(rules)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 rules found" in done.stdout


# A version that fails to load, as the server's metrics have it, minute by minute.
ALERT_TEST = """\
rule_files: [rules.yaml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: ladle_version_problem{model="m",version="2",code="NOT_FOUND",instance="a"}
        values: 0 0 1x5
    alert_rule_test:
      - {eval_time: 1m, alertname: LadleVersionProblem}
      - eval_time: 5m
        alertname: LadleVersionProblem
        exp_alerts:
          - exp_labels: {severity: critical, model: m, version: "2", code: NOT_FOUND}
            exp_annotations: {summary: "Version 2 of m can't be loaded: NOT_FOUND"}
"""


def test_a_version_that_can_not_be_loaded_fires_its_alert(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool; `.ci/debian-packages` installs it")
    rules = loaded(MONITORING / "rules.yaml")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    (tmp_path / "test.yaml").write_text(ALERT_TEST)
    done = subprocess.run(
        [promtool, "test", "rules", "test.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_made_of_the_metrics_that_the_server_has() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), f"run {dashboard.__file__}"
    documented = (ROOT / "docs" / "metrics.md").read_text()
    for panel in dashboard.dashboard()["panels"]:
        assert f"`{panel['title']}`" in documented


def test_systemd_gives_the_server_the_time_to_drain() -> None:
    unit = (DEPLOY / "systemd" / "ladle.service").read_text()
    (command,) = re.findall(r"^ExecStart=\S+ serve (.*)$", unit, re.MULTILINE)
    config = config_of(*command.replace("${MODEL_NAME}", "m").split())
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(stop_s) > config.drain_grace_seconds + 5


def test_compose_starts_the_image_and_watches_it() -> None:
    compose = loaded(ROOT / "compose.yaml")
    server, prometheus = compose["services"]["ladle"], compose["services"]["prometheus"]
    drain_s = config_of(*server["command"]).drain_grace_seconds
    assert float(server["stop_grace_period"].removesuffix("s")) > drain_s + 5
    assert server["volumes"] == ["./models:/models:ro"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    scrape = loaded(DEPLOY / "prometheus.yml")["scrape_configs"][0]
    assert scrape["static_configs"] == [{"targets": ["ladle:8501"]}]
    assert prometheus["volumes"] == ["./deploy/prometheus.yml:/etc/prometheus/prometheus.yml:ro"]
