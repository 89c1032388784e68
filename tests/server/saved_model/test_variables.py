"""A model whose variables a session does not restore is served all the same, or never available."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ladle.server.core.errors import ServingError
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model

ID = ServableId("m", 1)


def test_a_keras_model_saved_by_tensorflow_runs_as_keras_runs_it(tmp_path: Path) -> None:
    """The graph of such a model has no saver for the variables: upstream can't answer at all."""
    import keras
    import tensorflow as tf

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.BatchNormalization()]
    )
    tf.saved_model.save(model, str(tmp_path))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)

    servable = load_saved_model(ID, tmp_path, LoadOptions())
    signature = servable.signatures["serving_default"]
    answer = servable.run(signature, {"inputs": x}, ("output_0",))

    np.testing.assert_allclose(answer["output_0"], model.predict(x, verbose=0), rtol=1e-5)
    with pytest.raises(ServingError, match=r"input 'inputs': expected float32 \[-1, 4\]"):
        servable.run(signature, {"inputs": x[:, :3]}, ("output_0",))
    servable.close()


@pytest.mark.parametrize("use_resource", [True, False])
def test_a_model_with_a_variable_without_a_value_does_not_load(
    tmp_path: Path, use_resource: bool
) -> None:
    import tensorflow as tf

    tf1 = tf.compat.v1
    path = str(tmp_path / "1")
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None], name="x")
        saved = tf1.get_variable("saved", initializer=0.5, use_resource=use_resource)
        left_out = tf1.get_variable("left_out", initializer=2.0, use_resource=use_resource)
        y = tf1.add(saved * x, left_out, name="y")
        session.run(tf1.global_variables_initializer())
        signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = tf1.saved_model.Builder(path)
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, saver=tf1.train.Saver([saved])
        )
        builder.save()

    with pytest.raises(ServingError, match=r"'left_out' has no value .*; save the model again"):
        load_saved_model(ID, Path(path), LoadOptions())


def test_a_variable_that_no_signature_reads_may_have_no_value(tmp_path: Path) -> None:
    import tensorflow as tf

    tf1 = tf.compat.v1
    path = str(tmp_path / "1")
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None], name="x")
        saved = tf1.get_variable("saved", initializer=0.5)
        tf1.get_variable("step", initializer=2.0)
        y = tf1.multiply(saved, x, name="y")
        session.run(tf1.global_variables_initializer())
        signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = tf1.saved_model.Builder(path)
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, saver=tf1.train.Saver([saved])
        )
        builder.save()

    servable = load_saved_model(ID, Path(path), LoadOptions())
    signature = servable.signatures["serving_default"]
    answer = servable.run(signature, {"x": np.array([4], np.float32)}, ("y",))
    assert answer["y"].tolist() == [2]
    servable.close()
