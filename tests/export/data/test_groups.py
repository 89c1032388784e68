"""Examples of one group are trained on together or held out together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ladle.export import DataError, Dataset, TrainingOptions, load_data
from ladle.export.data.groups import grouped_holdout

MEMBERS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=80)


@settings(max_examples=200, deadline=None)
@given(members=MEMBERS, share=st.sampled_from([0.1, 0.2, 0.5]))
def test_no_group_is_split_and_each_class_is_trained_on(
    members: list[tuple[int, int]], share: float
) -> None:
    groups = np.array([group for group, _ in members])
    _, classes = np.unique([of_class for _, of_class in members], return_inverse=True)
    held_out = grouped_holdout(groups, classes, share)
    assert not set(groups[held_out]) & set(groups[~held_out])
    assert set(classes[~held_out]) == set(classes)


def test_about_a_fifth_of_each_class_is_held_out() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 100, 2000)
    classes = (groups % 3 == 0).astype(np.int64)
    held_out = grouped_holdout(groups, classes, 0.2)
    for of_class in (0, 1):
        assert held_out[classes == of_class].mean() == pytest.approx(0.2, abs=0.02)


def people(path: Path, n_people: int = 10) -> Path:
    rows = [f"p{n % n_people},{n},{n % 2}" for n in range(100)]
    path.write_text("\n".join(["person,x,label", *rows]))
    return path


def person_of(rows: Any) -> set[int]:
    return {int(x) % 10 for x in rows[:, 0]}


def test_the_rows_of_a_group_are_on_one_side_and_the_model_does_not_see_it(tmp_path: Path) -> None:
    dataset = load_data(people(tmp_path / "t.csv"), group_by="person")
    assert dataset.columns == ("x",)
    assert len(dataset.x_test) == 20
    assert not person_of(dataset.x_train) & person_of(dataset.x_test)


@pytest.mark.parametrize("regression", [False, True])
def test_what_is_kept_aside_of_the_training_holds_whole_groups(
    tmp_path: Path, regression: bool
) -> None:
    from ladle.export.training.batches import aside_last, n_training

    dataset = load_data(people(tmp_path / "t.csv"), group_by="person", regression=regression)
    options = TrainingOptions(early_stopping=2)
    n_trained, order = n_training(dataset, options), aside_last(dataset, options)
    assert order is not None
    rows = dataset.x_train[order]
    assert 0 < n_trained < len(rows)
    assert not person_of(rows[:n_trained]) & person_of(rows[n_trained:])


def test_a_group_is_found_in_a_files_path(tmp_path: Path) -> None:
    for n in range(60):
        folder = tmp_path / ("cat" if n % 2 else "dog")
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 2), n % 10, np.uint8)).save(folder / f"{n % 10}-{n}.png")
    dataset = load_data(tmp_path, group_by=r"/(\d+)-")
    people = [set(part[:, 0, 0, 0]) for part in (dataset.x_train, dataset.x_test)]
    assert not people[0] & people[1]
    assert people[0] | people[1] == set(range(10))
    with pytest.raises(DataError, match=r"finds no group in cat/"):
        load_data(tmp_path, group_by="lion")
    with pytest.raises(DataError, match="expected a regular expression"):
        load_data(tmp_path, group_by="(")


def test_a_split_far_from_a_fifth_is_said(tmp_path: Path) -> None:
    rows = [f"{'big' if n < 60 else 'small'},{n},{n % 2}" for n in range(100)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["person,x,label", *rows]))
    dataset = load_data(path, group_by="person")
    assert len(dataset.x_test) == 40
    assert dataset.notes == ("40% of the examples are held out, 1 of 2 groups: the groups' sizes"
                             " allow nothing nearer to 20%",)  # fmt: skip


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("nobody", "group by: expected a column beside label, got 'nobody'"),
        ("label", "group by: expected a column beside label, got 'label'"),
        ("person", "expected at least two groups with examples of each class"),
    ],
)
def test_groups_that_cannot_be_are_refused(tmp_path: Path, column: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(people(tmp_path / "t.csv", n_people=1), group_by=column)
    with pytest.raises(DataError, match=r"group by: expected a \.csv or a folder"):
        load_data("digits", group_by=column)


def test_without_groups_the_split_is_as_before(digits: Dataset) -> None:
    assert digits.groups is None
    assert len(digits.x_test) == 355
