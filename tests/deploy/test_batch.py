"""The examples of array jobs are what their scheduler takes, and what `ladle predict` takes."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.schemas import Schemas

from ladle.batch.arguments import parse
from ladle.batch.tasks.worker import Worker

BATCH = Path(__file__).resolve().parents[2] / "deploy" / "batch"
OLDEST = "1.31"
"""Since this version policies for failed pods are stable."""


@pytest.fixture
def job() -> Any:
    return yaml.safe_load((BATCH / "job.yaml").read_text())


def arguments_of(words: list[str]) -> Namespace:
    assert words[0] == "predict"
    return parse(words[1:])


@pytest.mark.parametrize("version", [OLDEST, "newest"])
def test_kubernetes_takes_the_job(schemas: Schemas, job: Any, version: str) -> None:
    schemas.validate(job, schemas.newest if version == "newest" else version)


def test_each_pod_is_a_worker_of_its_own(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job["spec"]["completionMode"] == "Indexed"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    workers = []
    for index in range(job["spec"]["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        workers.append(arguments_of(container["args"]).task)
    assert workers == [Worker(index, len(workers)) for index in range(len(workers))]


def test_pods_are_not_tried_again_for_what_stays_wrong(job: Any) -> None:
    (rule,) = (r for r in job["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in r)
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["containerName"] == "predict"
    # Wrong usage, and rows without a prediction; see `ladle predict --help`.
    assert rule["onExitCodes"]["values"] == [2, 3]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_each_element_of_slurms_array_is_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (BATCH / "slurm.sh").read_text()
    array = re.search(r"^#SBATCH --array=(\d+)-(\d+)$", script, re.MULTILINE)
    assert array is not None
    ids = range(int(array[1]), int(array[2]) + 1)
    command = script.partition("exec ladle ")[2].replace("\\\n", " ")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", str(len(ids)))
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", str(ids[0]))
    workers = []
    for number in ids:
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(number))
        workers.append(arguments_of(shlex.split(command)).task)
    assert workers == [Worker(index, len(ids)) for index in range(len(ids))]


def test_the_image_has_the_extras_that_the_job_needs() -> None:
    text = (BATCH / "Dockerfile").read_text()
    extras = re.search(r"\[([a-z,]+)\]\"", text)
    assert extras is not None
    assert {"batch", "remote"} <= set(extras[1].split(","))
    assert 'ENTRYPOINT ["ladle"]' in text
