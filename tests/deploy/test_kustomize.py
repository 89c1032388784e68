"""What `kubectl apply -k` would apply: built by kustomize, and held against schemas and flags."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.schemas import Schemas

from ladle.server import Config
from ladle.server.flags import settings

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPONENTS = KUBERNETES / "components"
STORE = ROOT / "deploy" / "overlays" / "store"
APPLIED = [KUBERNETES, KUBERNETES / "monitoring", STORE]
# What Kubernetes itself has no schema of.
OTHERS = {"PodMonitor", "PrometheusRule"}
UNITS = {"Gi": 1 << 30, "Mi": 1 << 20}


@cache
def built(folder: Path) -> dict[str, Any]:
    """Return what a folder makes, by kind; there is one of each."""
    kustomize, kubectl = shutil.which("kustomize"), shutil.which("kubectl")
    if kustomize is None and kubectl is None:
        pytest.skip("no kustomize and no kubectl on the path")
    command = [kustomize, "build"] if kustomize else [str(kubectl), "kustomize"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    by_kind = {one["kind"]: one for one in objects}
    assert len(by_kind) == len(objects)
    return by_kind


def flags_of(deployment: Any) -> Config:
    """What the server makes of a Deployment, by the arguments that the image passes."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    base_path = f"{env.get('MODEL_BASE_PATH', '/models')}/{env['MODEL_NAME']}"
    return Config(**settings([f"--model_base_path={base_path}", *container["args"]]))


@pytest.mark.parametrize("folder", APPLIED, ids=lambda folder: folder.name)
@pytest.mark.parametrize("version", ["1.27", "newest"])
def test_kubernetes_takes_what_is_built(schemas: Schemas, folder: Path, version: str) -> None:
    for kind, one in built(folder).items():
        if kind not in OTHERS:
            schemas.validate(one, schemas.newest if version == "newest" else version)


@pytest.mark.parametrize("name", ["store", "load"])
def test_a_component_is_made_of_the_files_beside_it(name: str) -> None:
    folder = COMPONENTS / name
    component = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert component["kind"] == "Component"
    used = {patch["path"] for patch in component["patches"]}
    there = {path.name for path in folder.iterdir()}
    assert there - used - {"kustomization.yaml", "prometheus-adapter.yaml"} == set()
    listed = yaml.safe_load((STORE / "kustomization.yaml").read_text())["components"]
    assert f"../../kubernetes/components/{name}" in listed


def test_models_from_a_store_need_no_claim_and_have_a_cache_that_fits_its_volume() -> None:
    store, base = built(STORE), built(KUBERNETES)
    assert "PersistentVolumeClaim" in base
    assert "PersistentVolumeClaim" not in store
    pod = store["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = flags_of(store["Deployment"])
    assert str(config.base_path) == "s3://models/digits"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts.values()) == set(volumes) == {"cache", "tmp"}
    limit = volumes[mounts[config.model_cache_dir]]["emptyDir"]["sizeLimit"]
    found = re.fullmatch(r"(\d+)(Gi|Mi)", limit)
    assert found is not None
    # A download and a version that is served are there at once, so some room beside both is left.
    assert 0 < config.model_cache_bytes <= 0.9 * int(found[1]) * UNITS[found[2]]
    # All else is as in the base.
    before = base["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][: len(before["args"])] == before["args"]
    for kind in "startupProbe", "readinessProbe", "livenessProbe":
        assert container[kind]["grpc"] == before[kind]["grpc"]


def test_a_pod_that_fetches_models_may_call_the_store_and_nothing_else() -> None:
    assert "egress" not in built(KUBERNETES)["NetworkPolicy"]["spec"]
    policy = built(STORE)["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    ports = {
        (port["protocol"], port["port"]) for rule in policy["egress"] for port in rule["ports"]
    }
    assert ports == {("TCP", 443), ("UDP", 53), ("TCP", 53)}
    assert policy["ingress"] == built(KUBERNETES)["NetworkPolicy"]["spec"]["ingress"]


def test_pods_come_by_the_requests_under_way() -> None:
    metrics = {
        one["type"]: one for one in built(STORE)["HorizontalPodAutoscaler"]["spec"]["metrics"]
    }
    assert set(metrics) == {"Resource", "Pods"}
    name = metrics["Pods"]["pods"]["metric"]["name"]
    assert f"`{name}`" in (ROOT / "docs" / "metrics.md").read_text()
    values = yaml.safe_load((COMPONENTS / "load" / "prometheus-adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert f"sum({name}{{<<.LabelMatchers>>}})" in rule["metricsQuery"]
