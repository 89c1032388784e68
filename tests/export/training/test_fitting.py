"""Each option of a training, by the effect that it has; trainings of a few steps each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.export import DataError, Dataset, ExportError, TrainingOptions
from ladle.export.training.recipes import RECIPES

Weights = list[NDArray[np.float32]]


@pytest.fixture
def numbers(arrays: dict[str, NDArray[Any]]) -> Dataset:
    return Dataset.from_arrays("numbers", arrays, regression=True)


def fit(dataset: Dataset, recipe: str = "mlp-plain", verbose: int = 0, **options: Any) -> Any:
    from ladle.export.training.fitting import train

    # A few steps take less time one by one than the compilation of one.
    few = (options.get("epochs") or 1) <= 4
    options = {"epochs": 1, "batch_size": 4, "run_eagerly": few} | options
    given = TrainingOptions(**options)
    return train(dataset, RECIPES[recipe], given, verbose=verbose)  # type: ignore[arg-type]


def weights(dataset: Dataset, recipe: str = "mlp-plain", **options: Any) -> Weights:
    found: Weights = fit(dataset, recipe, **options).model.get_weights()
    return found


def differ(some: Weights, others: Weights) -> bool:
    return any(np.abs(a - b).max() > 1e-6 for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "Adam"),
        ({"optimizer": "sgd", "momentum": 0.5}, "SGD"),
        ({"optimizer": "rmsprop"}, "RMSprop"),
        ({"optimizer": "adamw"}, "AdamW"),
    ],
)
def test_the_optimizer_is_the_one_asked_for(
    small: Dataset, options: dict[str, Any], name: str
) -> None:
    assert type(fit(small, **options).model.optimizer).__name__ == name


def test_the_learning_rate_is_kept_and_momentum_changes_the_steps(small: Dataset) -> None:
    sgd: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.125}
    assert float(fit(small, **sgd).model.optimizer.learning_rate) == 0.125
    assert differ(weights(small, **sgd), weights(small, **sgd, momentum=0.9))
    assert differ(weights(small, **sgd), weights(small, optimizer="sgd", learning_rate=0.5))


def test_adam_falls_to_0_along_a_cosine_unless_told(small: Dataset) -> None:
    assert float(fit(small).model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "loss", ["categorical_crossentropy", "sparse_categorical_crossentropy", "CategoricalHinge"]
)
def test_the_loss_is_the_one_asked_for(small: Dataset, loss: str) -> None:
    made = fit(small, loss=loss).model.loss
    assert type(made).__name__.lower() == loss.replace("_", "").lower()


def test_crossentropies_of_numbers_and_of_one_hot_rows_are_one(small: Dataset) -> None:
    sparse = fit(small).history["loss"]
    assert fit(small, loss="categorical_crossentropy").history["loss"] == pytest.approx(sparse)


def test_a_loss_on_numbers_makes_a_regression(numbers: Dataset) -> None:
    trained = fit(numbers, loss="MAE")
    assert trained.is_regression
    assert trained.history.keys() == {"loss", "mae", "val_loss", "val_mae"}
    assert trained.history["loss"] == pytest.approx(trained.history["mae"])
    assert fit(numbers).history["loss"] != pytest.approx(trained.history["loss"])


def test_the_loss_weight_is_a_factor(small: Dataset) -> None:
    frozen: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 1e-12}
    once = fit(small, **frozen).history["loss"][0]
    assert fit(small, **frozen, loss_weight=3.0).history["loss"][0] == pytest.approx(3 * once)


def test_a_loss_weight_by_name_is_for_several_outputs(small: Dataset) -> None:
    with pytest.raises(ValueError, match="expected a number, since the model has one output"):
        fit(small, loss_weight={"price": 0.5})


def test_metrics_are_measured_each_epoch(small: Dataset) -> None:
    history = fit(small, epochs=2, metrics=("sparse_top_k_categorical_accuracy",)).history
    assert len(history["sparse_top_k_categorical_accuracy"]) == 2


def test_weighted_metrics_heed_the_weights(small: Dataset) -> None:
    """Only examples of class 0 count, and the first step is taken before the model learns."""
    history = fit(
        small,
        optimizer="sgd",
        learning_rate=1e-12,
        weighted_metrics=("sparse_categorical_accuracy",),
        class_weights="1=0,2=0",
    )
    images = small.preparation.apply(small.x_train[small.y_train == 0])
    expected = np.mean(history.raw_outputs(images).argmax(1) == 0)
    assert history.history["sparse_categorical_accuracy"][0] == pytest.approx(expected)
    assert history.history["accuracy"][0] != pytest.approx(expected)


def test_batch_size_and_epochs_make_the_steps(small: Dataset) -> None:
    def steps(**options: Any) -> int:
        return int(fit(small, **options).model.optimizer.iterations)

    assert steps() == 3
    assert steps(batch_size=5) == 3
    assert steps(batch_size=12, epochs=4) == 4
    assert steps(initial_epoch=3, epochs=5) == 6
    assert steps(steps_per_epoch=7, epochs=2) == 14
    assert steps(validation_split=0.5) == 2
    assert steps(steps_per_epoch=4, steps_per_execution=2, run_eagerly=False) == 4


def test_validation_is_on_held_out_data_or_on_a_split(small: Dataset) -> None:
    trained = fit(small)
    predicted = trained.raw_outputs(small.preparation.apply(small.x_test)).argmax(1)
    assert trained.history["val_accuracy"][0] == pytest.approx(np.mean(predicted == small.y_test))
    split = fit(small, validation_split=0.25)
    last = small.preparation.apply(small.x_train[9:])
    expected = np.mean(split.raw_outputs(last).argmax(1) == small.y_train[9:])
    assert split.history["val_accuracy"][0] == pytest.approx(expected)
    assert "val_accuracy" not in fit(small, validation="none").history


def test_validation_steps_bound_the_validation(small: Dataset) -> None:
    trained = fit(small, validation="held-out", batch_size=2, validation_steps=1)
    predicted = trained.raw_outputs(small.preparation.apply(small.x_test[:2])).argmax(1)
    assert trained.history["val_accuracy"][0] == np.mean(predicted == small.y_test[:2])


def test_shuffling_changes_the_batches(small: Dataset) -> None:
    ordered = weights(small, shuffle=False)
    assert not differ(ordered, weights(small, shuffle=False))
    assert differ(ordered, weights(small))


def test_the_seed_makes_the_model(small: Dataset) -> None:
    assert not differ(weights(small, seed=1), weights(small, seed=1))
    assert differ(weights(small, seed=1), weights(small, seed=2))


@pytest.mark.parametrize("recipe", ["mlp-plain", "lenet"])
def test_a_class_that_weighs_nothing_is_not_learnt(small: Dataset, recipe: str) -> None:
    sized = small.resized(10, 10)
    trained = fit(sized, recipe, epochs=8, learning_rate=0.02, class_weights="1=0,2=0")
    predicted = trained.raw_outputs(sized.preparation.apply(small.x_train)).argmax(1)
    assert predicted.tolist() == [0] * 12


def test_balanced_weights_are_those_of_the_counts() -> None:
    from ladle.export.training.compilation import example_weights

    arrays = {
        "x_train": np.zeros((4, 2, 2), np.uint8),
        "y_train": np.array([0, 0, 0, 1]),
        "x_test": np.zeros((2, 2, 2), np.uint8),
        "y_test": np.array([0, 1]),
        "sample_weight": np.array([1, 1, 2, 1], np.float32),
    }
    dataset = Dataset.from_arrays("unequal", arrays)
    found = example_weights(dataset, TrainingOptions(class_weights="balanced"))
    assert found is not None
    np.testing.assert_allclose(found, np.array([2 / 3, 2 / 3, 4 / 3, 2]), rtol=1e-6)


def test_sample_weights_come_with_the_data(small: Dataset, arrays: dict[str, NDArray[Any]]) -> None:
    arrays["sample_weight"] = np.linspace(0, 1, 12, dtype=np.float32)
    weighted = Dataset.from_arrays("weighted", arrays)
    assert differ(weights(small), weights(weighted))


def test_steps_of_an_execution_run_without_coming_back_to_python(
    small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    returns: list[int] = []

    def count(self: Any, batch: int, logs: Any = None) -> None:
        returns.append(batch)

    monkeypatch.setattr(keras.callbacks.History, "on_train_batch_end", count)
    fit(small, steps_per_execution=3, run_eagerly=False)
    assert returns == [2]  # three batches, told of with the last one
    returns.clear()
    fit(small)
    assert returns == [0, 1, 2]


@pytest.mark.parametrize("recipe", ["mlp-plain", "lenet"])
def test_each_step_runs_as_python_only_eagerly(
    small: Dataset, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    import tensorflow as tf

    sized = small.resized(10, 10)
    build = RECIPES[recipe].build
    eager: list[bool] = []

    def build_watched(*arguments: Any) -> Any:
        model = build(*arguments)
        call = model.call

        def watched(*inputs: Any, **options: Any) -> Any:
            eager.append(tf.executing_eagerly())
            return call(*inputs, **options)

        monkeypatch.setattr(model, "call", watched)
        return model

    monkeypatch.setattr(RECIPES[recipe], "build", build_watched)
    fit(sized, recipe, epochs=2, run_eagerly=True)
    assert sum(eager) >= 6  # two epochs of three steps, and lenet's measuring
    eager.clear()
    fit(sized, recipe, epochs=2, run_eagerly=False)
    assert not any(eager)


@pytest.mark.parametrize("recipe", ["mlp-plain", "lenet"])
def test_early_stopping_ends_before_the_last_epoch(small: Dataset, recipe: str) -> None:
    """With steps so long that nothing is learnt, no epoch is better than the first ones."""
    history = fit(
        small.resized(10, 10),
        recipe,
        epochs=40,
        early_stopping=2,
        optimizer="sgd",
        learning_rate=1e-12,
        validation="held-out",
    ).history
    assert len(history["loss"]) < 40


@pytest.mark.parametrize(
    ("recipe", "measure", "best"),
    [("mlp-plain", "val_loss", np.argmin), ("lenet", "val_accuracy", np.argmax)],
)
def test_early_stopping_takes_the_weights_of_the_best_epoch(
    small: Dataset, recipe: str, measure: str, best: Callable[[Any], Any]
) -> None:
    """What is learnt of noise by heart makes other noise worse, which is kept aside for that."""
    from ladle.export.training.batches import aside_last, n_training

    sized = small.resized(10, 10)
    options: dict[str, Any] = {"early_stopping": 2, "validation": "held-out"}
    trained = fit(sized, recipe, epochs=12, learning_rate=0.05, **options)
    measured = trained.history[measure]
    assert best(measured) < len(measured) - 1
    order = aside_last(sized, TrainingOptions(**options))
    assert order is not None
    aside = order[n_training(sized, TrainingOptions(**options)) :]
    predicted = trained.raw_outputs(sized.preparation.apply(sized.x_train[aside])).argmax(1)
    accuracy = np.mean(predicted == sized.y_train[aside])
    assert accuracy == pytest.approx(trained.history["val_accuracy"][best(measured)])


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # Keras and h5py
@pytest.mark.parametrize("recipe", ["mlp-plain", "lenet"])
def test_a_stopped_training_goes_on_from_its_last_epoch(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    from ladle.export.training.checkpoints import Checkpoints

    sized = small.resized(10, 10)
    options: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 6,
        "learning_rate": 0.001,
        "shuffle": False,
    }
    expected = weights(sized, recipe, **options)
    save = Checkpoints.save

    def stop_after_two(checkpoints: Checkpoints, model: Any, epochs_done: int) -> None:
        save(checkpoints, model, epochs_done)
        if epochs_done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            fit(sized, recipe, **options, checkpoint_dir=str(tmp_path / "state"))
    resumed = fit(sized, recipe, **options, checkpoint_dir=str(tmp_path / "state"))
    assert len(resumed.history["loss"]) == 2
    assert not differ(expected, resumed.model.get_weights())
    anew = fit(sized, recipe, **options, checkpoint_dir=str(tmp_path / "state"))
    assert len(anew.history["loss"]) == 4
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize("recipe", ["mlp-plain", "lenet"])
def test_verbosity_is_silence_or_a_bar_or_a_line_an_epoch(
    small: Dataset, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    sized = small.resized(10, 10)
    fit(sized, recipe, verbose=0)
    assert capsys.readouterr().out == ""
    fit(sized, recipe, verbose=2, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Epoch")] == ["Epoch 1/2", "Epoch 2/2"]
    assert len([line for line in lines if "3/3 - " in line and "loss: " in line]) == 2
    fit(sized, recipe, verbose=1)
    assert "━" in capsys.readouterr().out


def test_lenet_has_60074_parameters_and_wants_larger_images_than_digits(small: Dataset) -> None:
    lenet = RECIPES["lenet"]
    assert lenet.build((28, 28), 10).count_params() == 60_074
    assert lenet.build((28, 28, 1), 10).count_params() == 60_074
    assert lenet.build((10, 10, 3), 2).output_shape == (None, 2)
    with pytest.raises(DataError, match=r"at least 10x10, got 8x8; resize them"):
        lenet.build((8, 8), 10)
    with pytest.raises(DataError, match="expected images, got examples of"):
        lenet.build((64,), 10)


def test_lenet_measures_on_held_out_data_after_every_epoch(small: Dataset) -> None:
    sized = small.resized(10, 10)
    trained = fit(sized, "lenet", epochs=3)
    assert len(trained.history["val_accuracy"]) == len(trained.history["loss"]) == 3
    predicted = trained.raw_outputs(sized.preparation.apply(sized.x_test)).argmax(1)
    assert trained.history["val_accuracy"][-1] == np.mean(predicted == sized.y_test)


def test_lenet_tells_loss_and_accuracy_of_both_parts(small: Dataset) -> None:
    from ladle.export.training.outputs import cross_entropy

    sized = small.resized(10, 10)
    # With so small a rate the model is at the end what it was in every step.
    trained = fit(sized, "lenet", epochs=1, learning_rate=1e-12)
    assert list(trained.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    for part, raw, targets in (
        ("", sized.x_train, sized.y_train),
        ("val_", sized.x_test, sized.y_test),
    ):
        answers = np.asarray(trained.activated(trained.raw_outputs(sized.preparation.apply(raw))))
        assert trained.history[f"{part}accuracy"] == [np.mean(answers.argmax(1) == targets)]
        expected = cross_entropy(answers, targets)
        assert trained.history[f"{part}loss"] == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("mlp", {"optimizer": "adamant"}, "optimizer: expected one of Keras's, got adamant"),
        ("mlp", {"optimizer": "LossScaleOptimizer"}, "LossScaleOptimizer takes more than its name"),
        ("mlp", {"momentum": 0.5}, "momentum: adam takes none"),
        ("mlp", {"epochs": None, "initial_epoch": 50}, "initial epoch: expected less than the 50"),
        ("mlp", {"loss": "crossness"}, "loss: expected one of Keras's, got crossness"),
        ("mlp", {"loss": "mse"}, "loss: mse does not suit targets that are classes"),
        ("mlp", {"metrics": ("luck",)}, "metrics: expected those of Keras, got luck"),
        ("mlp", {"metrics": ("mean_io_u",)}, "metrics: mean_io_u takes more than its name"),
        ("mlp", {"class_weights": "cat=2"}, "LABEL=WEIGHT,... with labels such as 0, got 'cat=2'"),
        ("mlp", {"class_weights": "0=many"}, "expected a number for 0, got many"),
        ("mlp", {"class_weights": "0=-1"}, "expected numbers from 0, got 0=-1"),
        ("mlp", {"validation_split": 0.99}, "0.99 of 12 examples leaves none to train on"),
        ("lenet", {"metrics": ("mae",)}, "metrics: the recipe has a training loop of its own"),
        ("lenet", {"loss": "categorical_crossentropy"}, "loss: the recipe has a training loop"),
    ],
)
def test_what_does_not_fit_is_one_line(
    small: Dataset, recipe: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(small.resized(10, 10), recipe, **options)


@pytest.mark.parametrize("loss", ["ctc", "circle"])
def test_a_loss_that_keras_cannot_compute_is_one_line(small: Dataset, loss: str) -> None:
    with pytest.raises(ExportError, match="the training failed: a layer, the loss or a") as refusal:
        fit(small, loss=loss)
    assert "\n" not in str(refusal.value)
    assert "node" not in str(refusal.value)


def test_weights_may_be_of_any_float(small: Dataset) -> None:
    weights_64 = replace(small, sample_weight=np.linspace(0, 1, 12))  # type: ignore[arg-type]
    weights_32 = replace(small, sample_weight=np.linspace(0, 1, 12, dtype=np.float32))
    assert not differ(weights(weights_64), weights(weights_32))
