"""The plan has every row once, whatever sizes files have, and its file can be read again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.batch.errors import BatchError, ChangedError
from ladle.batch.tasks.plan import (
    MAX_TASKS,
    Plan,
    Task,
    check_same,
    cut,
    tasks_of_files,
    tasks_of_images,
    tasks_of_rows,
)
from ladle.batch.tasks.worker import Worker, order

SIZES = st.lists(st.integers(0, 50), max_size=12)


def plan_of(*tasks: Task, version: int | None = 1, **settings: object) -> Plan:
    return Plan(
        input="sha256:0",
        input_format="npy",
        files=("a.npy", "b.npy"),
        columns=("array",),
        settings=settings,
        version=version,
        shard_rows=7,
        tasks=tasks,
    )


@given(SIZES, st.integers(1, 40))
def test_ranges_hold_each_row_once_and_begin_with_groups(sizes: list[int], most: int) -> None:
    ranges = cut(sizes, most)
    assert [row for begin, stop in ranges for row in range(begin, stop)] == list(range(sum(sizes)))
    assert all(0 < stop - begin <= most for begin, stop in ranges)
    # Only a group that no range can hold is read for two of them.
    firsts = {sum(sizes[:index]) for index in range(len(sizes) + 1)}
    if max(sizes, default=0) <= most:
        assert all(begin in firsts for begin, _ in ranges)


@given(st.lists(SIZES, max_size=6), st.integers(1, 40), st.integers(1, 9))
def test_whatever_the_sizes_and_the_workers_each_row_is_some_workers_once(
    groups: list[list[int]], most: int, workers: int
) -> None:
    tasks = tasks_of_rows(groups, most)
    begun = [order(len(tasks), Worker(index, workers))[0] for index in range(workers)]
    taken = [tasks[number] for own in begun for number in own]
    rows = sorted(row for task in taken for row in range(task.start, task.stop or 0))
    assert rows == list(range(sum(map(sum, groups))))
    for task in tasks:
        # The rows before the task's file, and those in it before the task.
        assert task.file is not None
        assert task.start - task.skipped == sum(map(sum, groups[: task.file]))
        assert task.stop is not None
        assert task.skipped + task.stop - task.start <= sum(groups[task.file])


@given(st.integers(0, 300), st.integers(1, 40))
def test_images_are_each_in_one_task(images: int, most: int) -> None:
    tasks = tasks_of_images(images, most)
    assert [n for t in tasks for n in range(t.start, t.stop or 0)] == list(range(images))


def test_there_are_not_more_tasks_than_can_be_looked_through() -> None:
    with pytest.raises(BatchError, match="at most 100,000 tasks, got 100,001: a larger --shard"):
        tasks_of_rows([[MAX_TASKS + 1]], 1)
    with pytest.raises(BatchError, match="each file is one; give larger files"):
        tasks_of_files(MAX_TASKS + 1)


def test_a_plan_is_what_was_written() -> None:
    plan = plan_of(Task(0, 0, 7), Task(0, 7, 9, 7), Task(1, 0, None), keep=["é"])
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.file_of(plan.tasks[2]) == "b.npy"
    assert plan.file_of(plan.tasks[0]) is None


WHOLE = json.loads(plan_of(Task(0, 0, 7)).to_json())


@given(
    st.sampled_from(sorted(WHOLE)),
    st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
)
def test_a_plan_of_anything_is_read_or_refused_in_one_line(name: str, value: object) -> None:
    refused = ""
    try:
        Plan.from_json(json.dumps({**WHOLE, name: value}).encode())
    except BatchError as error:
        refused = str(error)
    assert not refused or refused.startswith("_plan.json: ")
    assert len(refused.splitlines()) <= 1


@pytest.mark.parametrize(
    "task",
    [
        {"file": 2, "start": 0, "stop": 1, "skipped": 0},
        {"file": None, "start": 0, "stop": None, "skipped": 0},
        {"file": 0, "start": 5, "stop": 4, "skipped": 0},
        {"file": 0, "start": -1, "stop": 4, "skipped": 0},
        {"file": 0, "start": 0, "stop": 4},
        [],
    ],
)
def test_a_task_that_can_not_be_is_refused(task: object) -> None:
    with pytest.raises(BatchError, match="can't be read as a plan"):
        Plan.from_json(json.dumps({**WHOLE, "tasks": [task]}).encode())


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": 1}', b"[" * 10000])
def test_what_is_no_plan_is_refused(text: bytes) -> None:
    with pytest.raises(BatchError, match=r"_plan\.json: "):
        Plan.from_json(text)


def test_a_worker_has_to_want_what_was_planned() -> None:
    plan = plan_of(map={"x": ["a"]})
    check_same(plan, plan_of(map={"x": ["a"]}), allow_changed_model=False, place="out")
    with pytest.raises(ChangedError, match=r'the plan has another map: \{"x": .*another --output'):
        check_same(plan, plan_of(map={"x": ["b"]}), allow_changed_model=False, place="out")
    other = plan_of(version=2, map={"x": ["a"]})
    with pytest.raises(ChangedError, match="asks for version 1 of the model, and version 2"):
        check_same(plan, other, allow_changed_model=False, place="out")
    check_same(plan, other, allow_changed_model=True, place="out")
