"""Models with several inputs or outputs, from their data to what they answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import ONE_EPOCH
from numpy.typing import NDArray

from ladle.export import (
    CustomSignature,
    DataError,
    ExportError,
    MultiDataset,
    Requirements,
    export_model,
    load_data,
    load_multi_data,
)
from ladle.export.report.page import make_report

pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # Keras's
RNG = np.random.default_rng(4)
N = 60
OPTIONS = replace(ONE_EPOCH, batch_size=16, learning_rate=0.05)


def houses(count: int = N) -> tuple[dict[str, Any], dict[str, Any]]:
    """Houses with an area and a street; what they cost, what they are, and what they have."""
    area = RNG.uniform(20, 200, count).astype(np.float32)
    street = np.array(["quay", "lane", "mews"])[np.arange(count) % 3]
    x = {"area": area, "street": street, "rooms": (area // 30).astype(np.int64)[:, None]}
    extras = np.stack([area > 100, street == "quay"], axis=1).astype(np.int64)
    return x, {"price": area * 3, "kind": (area > 90).astype(np.int64), "extras": extras}


def parts() -> dict[str, dict[str, NDArray[Any]]]:
    (x_train, y_train), (x_test, y_test) = houses(), houses(30)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def model(*, as_dicts: bool, n_kinds: int = 1, street: str = "street") -> Any:
    import keras

    layers = keras.layers
    area, where = keras.Input((), name="area"), keras.Input((1,), name=street, dtype="string")
    rooms = keras.Input((1,), name="rooms", dtype="int32")
    looked_up = layers.StringLookup(vocabulary=["quay", "lane"], output_mode="one_hot")(where)
    size = layers.Rescaling(1 / 100)(layers.Reshape((1,))(area))
    of_rooms = layers.IntegerLookup(vocabulary=[0, 1, 2, 3, 4, 5], output_mode="one_hot")(rooms)
    together = layers.Concatenate()([size, looked_up, of_rooms])
    outputs = {
        "price": layers.Dense(1, name="price")(together),
        "kind": layers.Dense(n_kinds, activation="sigmoid", name="kind")(together),
        "extras": layers.Dense(2, name="extras")(together),
    }
    inputs = {"area": area, street: where, "rooms": rooms}
    if as_dicts:
        return keras.Model(inputs, outputs)
    return keras.Model(list(inputs.values()), list(outputs.values()))


@pytest.mark.usefixtures("checked_here")
@pytest.mark.parametrize("as_dicts", [False, True])
def test_a_model_is_trained_and_served_by_the_names_of_its_inputs_and_outputs(
    tmp_path: Path, as_dicts: bool
) -> None:
    import tensorflow as tf

    data = parts()
    flat = {
        f"{part}/{name}": array for part, arrays in data.items() for name, array in arrays.items()
    }
    np.savez(tmp_path / "houses.npz", **flat)  # type: ignore[arg-type]
    dataset = load_multi_data(tmp_path / "houses.npz")
    assert {name: dataset.task(name) for name in dataset.y_train} == {
        "price": "numbers", "kind": "classes", "extras": "labels"
    }  # fmt: skip
    made = model(as_dicts=as_dicts)
    options = replace(OPTIONS, loss="price=mae", loss_weight={"price": 0.01, "kind": 1.0})
    exported = export_model(tmp_path / "m", dataset, model=made, options=options)
    card = exported.card
    assert set(card.metrics) == {
        "price_mae", "price_mse", "kind_accuracy", "extras_accuracy", "extras_exact_match"
    }  # fmt: skip
    assert card.outputs["kind"]["labels"] == ["0", "1"]
    assert card.outputs["extras"]["task"] == "labels"
    assert set(card.signatures) == {"serving_default"}
    assert card.row_independent_signatures == ("serving_default",)
    assert "val_kind_accuracy" in card.provenance["history"]
    signature = tf.saved_model.load(str(exported.path)).signatures["serving_default"]
    given = {name: array[:5] for name, array in dataset.x_test.items()}
    answers = signature(
        area=tf.constant(given["area"]),
        street=tf.constant(given["street"]),
        rooms=tf.constant(given["rooms"], tf.int32),
    )
    raw = made.predict(
        {
            "area": given["area"],
            "street": tf.constant(given["street"])[:, None],
            "rooms": given["rooms"],
        },
        verbose=0,
    )
    price, kind, extras = raw.values() if as_dicts else raw
    np.testing.assert_allclose(answers["price"], price[:, 0], rtol=1e-5)
    np.testing.assert_allclose(answers["kind"][:, 1], kind[:, 0], rtol=1e-5)
    np.testing.assert_allclose(answers["extras"], 1 / (1 + np.exp(-extras)), rtol=1e-4)
    assert answers["kind_class_id"].numpy().tolist() == (kind[:, 0] > 0.5).astype(int).tolist()
    assert answers["extras_indicators"].numpy().tolist() == (extras > 0).astype(int).tolist()


def heart(path: Path) -> Path:
    rows = [f"{n % 50},{('fixed', 'normal')[n % 2]},{n % 2}" for n in range(60)]
    path.write_text("\n".join(["age,thal,target", *rows]))
    return path


def heart_model() -> Any:
    import keras

    layers = keras.layers
    age, thal = keras.Input((1,), name="age"), keras.Input((1,), name="thal", dtype="string")
    looked_up = layers.StringLookup(vocabulary=["fixed", "normal"], output_mode="one_hot")(thal)
    together = layers.Concatenate()([layers.Rescaling(1 / 50)(age), looked_up])
    return keras.Model([age, thal], layers.Dense(2)(together))


@pytest.mark.usefixtures("checked_here")
def test_a_table_with_a_column_of_texts_goes_to_the_inputs_of_its_names(tmp_path: Path) -> None:
    import tensorflow as tf

    dataset = load_multi_data(heart(tmp_path / "heart.csv"))
    assert set(dataset.x_train["thal"]) == {"fixed", "normal"}
    options = replace(OPTIONS, epochs=4, learning_rate=0.3)
    exported = export_model(tmp_path / "m", dataset, model=heart_model(), options=options)
    assert exported.accuracy == 1
    assert "output probabilities" in make_report("heart", 1, exported.card, None)
    assert exported.card.labels == ("0", "1")
    assert [(c.name, c.dtype) for c in exported.card.columns] == [
        ("age", "float32"), ("thal", "string")
    ]  # fmt: skip
    assert set(exported.card.signatures) == {"serving_default", "classify"}
    signatures = tf.saved_model.load(str(exported.path)).signatures
    told = signatures["serving_default"](
        age=tf.constant([3.0, 3.0]), thal=tf.constant(["normal", "fixed"])
    )
    assert told["class_id"].numpy().tolist() == [1, 0]
    example = tf.train.Example()
    example.features.feature["age"].float_list.value.append(3)
    example.features.feature["thal"].bytes_list.value.append(b"normal")
    scores = signatures["classify"](inputs=tf.constant([example.SerializeToString()]))["scores"]
    np.testing.assert_allclose(scores[0], told["probabilities"][0], atol=1e-5)


def test_the_command_gives_a_table_to_a_saved_model_with_several_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from checking import run_in_this_process

    from ladle.export.cli import main

    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    heart_model().save(tmp_path / "m.keras")
    data = ["--data", str(heart(tmp_path / "h.csv")), "--quiet"]
    assert (
        main([str(tmp_path / "m"), *data, "--model", str(tmp_path / "m.keras"), "--export-only"])
        == 0
    )
    assert "Accuracy: " in capsys.readouterr().out
    assert main([str(tmp_path / "n"), *data]) == 1
    assert "these need a model of your own" in capsys.readouterr().err


def test_a_saved_model_tells_whether_it_has_several_inputs(tmp_path: Path) -> None:
    import keras

    from ladle.export.multi_io.saved import has_several_inputs

    def has(made: Any) -> bool:
        made.save(tmp_path / "m.keras")
        return has_several_inputs(str(tmp_path / "m.keras"))

    assert has(model(as_dicts=True))
    assert has(model(as_dicts=False))
    assert not has(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    one = keras.Input((2,))
    assert not has(keras.Model(one, keras.layers.Dense(1)(one)))
    (tmp_path / "m.keras").write_bytes(b"PK")
    assert not has_several_inputs(str(tmp_path / "m.keras"))
    assert not has_several_inputs("package.module:make")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("auc",)}, "metrics: expected one for an output, price=..."),
        ({"weighted_metrics": ("cost=mae",)}, "weighted metrics: expected one for an output"),
        ({"metrics": ("price=luck",)}, "metrics: expected those of Keras, got luck"),
        ({"prefetch": 2}, "prefetch: not taken for a model with several inputs .* in memory"),
        ({"class_weights": "balanced"}, "class weights: expected one output, with classes"),
        ({"epochs": 2, "initial_epoch": 2}, "initial epoch: expected less than the 2 epochs"),
        ({"loss": "cost=mae"}, "loss: expected one for an output, price=..."),
        ({"loss_weight": 2.0}, "loss weight: expected one for an output"),
        ({"loss": "kind=mse"}, 'loss: mse does not suit output "kind"'),
    ],
)
def test_options_that_do_not_suit_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    dataset = MultiDataset.from_arrays("houses", parts())
    with pytest.raises(ValueError, match=message):
        export_model(
            tmp_path, dataset, model=model(as_dicts=True), options=replace(OPTIONS, **options)
        )


@pytest.mark.usefixtures("checked_here")
def test_each_output_is_measured_by_metrics_of_its_own(tmp_path: Path) -> None:
    options = replace(
        OPTIONS,
        metrics=("price=mape", "kind=auc"),
        weighted_metrics=("price=mse",),
        steps_per_epoch=2,
        epochs=2,
    )
    dataset = MultiDataset.from_arrays("houses", parts())
    exported = export_model(tmp_path, dataset, model=model(as_dicts=False), options=options)
    history = exported.card.provenance["history"]
    assert {"price_mape", "val_kind_auc", "price_mse"} <= history.keys()
    assert history["epochs"] == [1, 2]


@pytest.mark.usefixtures("checked_here")
def test_classes_count_as_their_weights_say(tmp_path: Path) -> None:
    dataset = load_multi_data(heart(tmp_path / "heart.csv"))
    options = replace(OPTIONS, epochs=3, learning_rate=0.3, class_weights="0=0")
    exported = export_model(tmp_path, dataset, model=heart_model(), options=options)
    # Nobody has told the model what an example of class 0 looks like.
    assert exported.accuracy == pytest.approx(np.mean(dataset.y_test[""]))


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # Keras and h5py
@pytest.mark.usefixtures("checked_here")
def test_a_stopped_training_goes_on_from_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle.export.training.checkpoints import Checkpoints

    dataset = load_multi_data(heart(tmp_path / "heart.csv"))
    options = replace(OPTIONS, epochs=4, shuffle=False)
    whole, resumed = heart_model(), heart_model()
    resumed.set_weights(whole.get_weights())
    export_model(tmp_path / "whole", dataset, model=whole, options=options)
    kept = replace(options, checkpoint_dir=str(tmp_path / "state"))
    save = Checkpoints.save

    def stop_after_two(checkpoints: Checkpoints, model: Any, epochs_done: int) -> None:
        save(checkpoints, model, epochs_done)
        if epochs_done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            export_model(tmp_path / "m", dataset, model=resumed, options=kept)
    exported = export_model(tmp_path / "m", dataset, model=heart_model(), options=kept)
    assert exported.card.provenance["history"]["epochs"] == [3, 4]
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.usefixtures("checked_here")
def test_signatures_of_ones_own_are_tried_on_the_inputs_of_their_names(tmp_path: Path) -> None:
    import tensorflow as tf

    def signatures(made: Any) -> Any:
        def dearer(area: Any, street: Any, factor: Any) -> Any:
            rooms = tf.zeros([tf.shape(area)[0], 1], tf.int32)
            raw = made({"area": area, "street": street, "rooms": rooms})
            return {"price": raw["price"][:, 0] * factor}

        specs = [
            tf.TensorSpec([None], tf.float32, "area"),
            tf.TensorSpec([None, 1], tf.string, "street"),
            tf.TensorSpec([None], tf.float32, "factor"),
        ]
        return {
            "dearer": CustomSignature(
                function=dearer, inputs=tuple(specs), examples={"factor": [2.0, 3.0]}
            )
        }

    dataset = MultiDataset.from_arrays("houses", parts())
    made = model(as_dicts=True)
    exported = export_model(
        tmp_path, dataset, model=made, options=OPTIONS, fit=False, signatures=signatures
    )
    assert set(exported.card.signatures) == {"serving_default", "dearer"}
    assert "dearer" in exported.card.row_independent_signatures

    def of_another_name(made: Any) -> Any:
        spec = tf.TensorSpec([None], tf.float32, "road")
        return {"a": (lambda road: {"b": road}, [spec])}

    with pytest.raises(ExportError, match='input "road": no held-out example is float32'):
        export_model(tmp_path, dataset, model=made, fit=False, signatures=of_another_name)


@pytest.mark.usefixtures("checked_here")
def test_what_was_made_of_the_targets_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = parts()
    for part in ("y_train", "y_test"):
        kinds = given[part]["kind"]
        given[part] = {**given[part], "kind": np.stack([1 - kinds, kinds], axis=1)}
    dataset = MultiDataset.from_arrays("houses", given)
    export_model(tmp_path, dataset, model=model(as_dicts=True), fit=False)
    assert "houses: each row of y_train and y_test has one 1: they are taken as" in caplog.text


def test_what_does_not_fit_the_model_is_named(tmp_path: Path) -> None:
    import keras

    dataset = MultiDataset.from_arrays("houses", parts())

    def refused(made: Any, **options: Any) -> str:
        with pytest.raises((ExportError, ValueError)) as refusal:
            export_model(tmp_path, dataset, model=made, options=OPTIONS, **options)
        return str(refusal.value)

    assert (
        "its inputs are area, road, rooms, and those of houses are area, street, rooms"
        in refused(model(as_dicts=True, street="road"))
    )
    assert 'output "kind" gives [-1, 3], expected [-1, 2]' in refused(
        model(as_dicts=True, n_kinds=3)
    )
    fractions = {part: dict(arrays) for part, arrays in parts().items()}
    for part in ("x_train", "x_test"):
        fractions[part]["rooms"] = fractions[part]["rooms"] + 0.5
    with pytest.raises(ExportError, match=r'"rooms" takes int32, and the data have \d\.5'):
        export_model(tmp_path, MultiDataset.from_arrays("h", fractions), model=model(as_dicts=True))
    assert "has to be functional" in refused(keras.Sequential([keras.layers.Dense(2)]))
    requirements = Requirements(min_accuracy=0.5)
    assert "the model has no single accuracy" in refused(
        model(as_dicts=True), fit=False, requirements=requirements
    )


@pytest.mark.parametrize(
    ("part", "name", "array", "message"),
    [
        ("x_test", "area", None, "x_test: expected area, street, rooms as in x_train"),
        ("x_train", "area", np.zeros(3), "x_train/street: expected as many examples"),
        ("x_train", "area", np.full(N, np.nan, np.float32), "x_train/area: expected finite"),
        ("y_train", "kind", np.full(N, 7), "kind: y_train: expected labels 0 to 0"),
        ("y_test", "kind", np.full(30, 7), "kind: y_test: expected classes 0 to 1, got 7"),
        ("y_test", "price", None, "y_test/price: expected targets, got none"),
        ("x_test", "rooms", np.zeros((30, 2)), "x_test/rooms: expected examples of [1]"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(
    part: str, name: str, array: Any, message: str
) -> None:
    data = parts()
    if array is None:
        del data[part][name]
    else:
        data[part][name] = array
    with pytest.raises(DataError) as refusal:
        MultiDataset.from_arrays("houses", data)
    assert message in str(refusal.value)


def test_data_for_one_input_and_for_several_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="load it with load_multi_data"):
        load_data(heart(tmp_path / "h.csv"))
    with pytest.raises(DataError, match="x_train/NAME"):
        load_multi_data("digits")
