"""How examples reach a training: in which order, how many at once, and how far ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Lock, Semaphore
from typing import Any

import numpy as np
from fakes import TIMEOUT_S
from numpy.typing import NDArray

from ladle.export import Dataset, TrainingOptions
from ladle.export.training.recipes import RECIPES

TRAINING = ("x_train", "y_train")


def fit(dataset: Dataset, **options: Any) -> Any:
    from ladle.export.training.fitting import train

    given = TrainingOptions(run_eagerly=True, **options)
    return train(dataset, RECIPES["mlp-plain"], given)


class WatchedReads(np.ndarray[Any, Any]):
    """An array that notes each batch that is read of it, and may hold the readers up."""

    before: Callable[[int], None]

    def __getitem__(self, chosen: Any) -> Any:
        """Read as any array does, but tell first how many rows."""
        if isinstance(chosen, np.ndarray):
            self.before(len(chosen))
        return np.asarray(self)[chosen]


def watched(dataset: Dataset, before: Callable[[int], None]) -> Dataset:
    examples = dataset.x_train.view(WatchedReads)
    examples.before = before
    return replace(dataset, x_train=examples)


def batches_of(dataset: Dataset, **options: Any) -> Any:
    from ladle.export.training.batches import training_batches

    return training_batches(dataset, TrainingOptions(**options), None, one_hot=False)


def test_a_split_takes_its_share_whatever_a_float_makes_of_it(arrays: Any) -> None:
    from ladle.export.training.batches import n_training

    ten = Dataset.from_arrays("ten", arrays | {name: arrays[name][:10] for name in TRAINING})
    for tenths in range(10):
        assert n_training(ten, TrainingOptions(validation_split=tenths / 10)) == 10 - tenths


def test_as_many_batches_are_read_at_once_as_there_are_workers(small: Dataset) -> None:
    """Three readers meet: with fewer at once none would get past the barrier."""
    meeting = Barrier(3)
    data = watched(small, lambda _: (meeting.wait(TIMEOUT_S), None)[1])
    batches = batches_of(data, batch_size=2, data_workers=3, prefetch=0)
    assert sum(len(targets) for _, targets in batches) == 12

    most, now, lock = [0], [0], Lock()

    def count(_: int) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        with lock:
            now[0] -= 1

    for _ in batches_of(watched(small, count), batch_size=1, data_workers=1, prefetch=4):
        pass
    assert most == [1]


def test_batches_are_read_ahead_as_asked(small: Dataset) -> None:
    """While the first of twelve is used, as many as asked for are read, and no other is asked."""
    ahead = Semaphore(0)
    batches = batches_of(
        watched(small, lambda _: ahead.release()), batch_size=1, data_workers=1, prefetch=8
    )
    first = iter(batches)
    next(first)
    for _ in range(9):
        assert ahead.acquire(timeout=TIMEOUT_S)


def test_no_read_is_larger_than_a_batch(small: Dataset) -> None:
    reads: list[int] = []
    fit(watched(small, reads.append), batch_size=5, epochs=2)
    assert sorted(reads) == [2, 2, 5, 5, 5, 5]


def test_each_epoch_has_every_example_once_in_an_order_of_its_own(small: Dataset) -> None:
    from ladle.export.training.batches import training_batches

    numbered = replace(small, y_train=np.arange(12), labels=tuple(map(str, range(12))))

    def orders(**options: Any) -> list[list[int]]:
        batches = training_batches(
            numbered, TrainingOptions(batch_size=5, **options), None, one_hot=False
        )
        if options.get("steps_per_epoch"):
            targets = [int(n) for _, some in batches.take(6) for n in some]
            return [targets[:12], targets[12:24]]
        return [[int(n) for _, some in batches for n in some] for _ in range(2)]

    for found in (orders(), orders(steps_per_epoch=2)):
        assert [sorted(order) for order in found] == [list(range(12))] * 2
        assert found[0] != found[1] != list(range(12))
    assert orders(shuffle=False) == [list(range(12))] * 2


def test_memory_maps_give_the_batches_that_arrays_in_memory_give(
    tmp_path: Path, arrays: dict[str, NDArray[Any]]
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, arrays["x_train"])
    mapped = np.load(path, mmap_mode="r")
    expected = batches_of(Dataset.from_arrays("small", arrays), batch_size=5)
    arrays["x_train"] = mapped
    found = batches_of(Dataset.from_arrays("small", arrays), batch_size=5)
    for (images, targets), (others, same) in zip(expected, found, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(targets, same)


def test_what_is_kept_aside_is_of_every_class_and_never_held_out() -> None:
    from ladle.export.training.batches import aside_last, n_training, validation_batches

    arrays: dict[str, NDArray[Any]] = {
        "x_train": np.arange(40, dtype=np.uint8).repeat(4).reshape(40, 2, 2),
        "y_train": np.arange(40) // 20,
        "x_test": np.full((4, 2, 2), 255, np.uint8),
        "y_test": np.arange(4) % 2,
    }
    dataset = Dataset.from_arrays("sorted", arrays)
    assert aside_last(dataset, TrainingOptions(validation="held-out")) is None
    for options in (
        TrainingOptions(early_stopping=2),
        TrainingOptions(early_stopping=2, validation="held-out"),
        TrainingOptions(validation_split=0.1),
    ):
        order = aside_last(dataset, options)
        assert order is not None
        assert sorted(order.tolist()) == list(range(40))
        assert n_training(dataset, options) == 36
        assert order[36:].tolist() == [18, 19, 38, 39]
        batches = validation_batches(dataset, options, one_hot=False)
        assert batches is not None
        seen = np.concatenate([images.numpy() for images, _ in batches])
        assert np.round(seen[:, 0, 0] * 255).tolist() == [18, 19, 38, 39]
