"""SavedModels made for the tests, as TF1 and TF2 write them. Needs TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
PREDICT = "tensorflow/serving/predict"


def write_half_plus_two(path: Path) -> None:
    """Write a TF1 model: y = x / 2 + 2 and y2 = x / 2 + 3, for arrays and for Examples.

    Its signatures share the tensor that Examples go into, as MultiInference upstream needs it.
    """
    import tensorflow as tf

    tf1 = tf.compat.v1
    with tf1.Graph().as_default(), tf1.Session() as session:
        serialized = tf1.placeholder(tf.string, [None], name="tf_example")
        parsed = tf1.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([1], tf.float32)})
        x = tf1.identity(parsed["x"], name="x")
        half = tf1.Variable(0.5, name="a")
        y = tf1.identity(half * x + 2.0, name="y")
        y2 = tf1.identity(half * x + 3.0, name="y2")
        both = tf1.concat([y, y2], axis=1)
        labels = tf1.tile(tf1.constant([["two", "three"]]), [tf1.shape(x)[0], 1])
        session.run(tf1.global_variables_initializer())
        examples = {"inputs": serialized}
        _save_tf1(
            session,
            path,
            {
                "serving_default": ({"x": x}, {"y": y}, PREDICT),
                "both": ({"x": x}, {"y": y, "y2": y2}, PREDICT),
                "classify_x_to_y": (examples, {"scores": y}, CLASSIFY),
                "classify_both": (examples, {"classes": labels, "scores": both}, CLASSIFY),
                "regress_x_to_y": (examples, {"outputs": y}, REGRESS),
                "regress_x_to_y2": (examples, {"outputs": y2}, REGRESS),
                "oddly_named": (examples, {"outputs": y, "scores": y2}, "odd"),
            },
        )


def write_half_plus_two_tf2(path: Path) -> None:
    """Write a TF2 model of the same functions; `scaled` has a default for its `half`."""
    import tensorflow as tf

    class HalfPlusTwo(tf.Module):  # type: ignore[misc] # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.half = tf.Variable(0.5)

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, "x")])  # type: ignore[untyped-decorator]
        def predict(self, x: Any) -> Any:
            return {"y": self.half * x + 2.0}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])  # type: ignore[untyped-decorator]
        def classify(self, inputs: Any) -> Any:
            x = self._parsed(inputs)
            labels = tf.tile(tf.constant([["two", "three"]]), [tf.shape(x)[0], 1])
            scores = tf.concat([self.half * x + 2.0, self.half * x + 3.0], axis=1)
            return {"classes": labels, "scores": scores}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])  # type: ignore[untyped-decorator]
        def regress(self, inputs: Any) -> Any:
            return {"outputs": self.half * self._parsed(inputs) + 2.0}

        def _parsed(self, serialized: Any) -> Any:
            features = {"x": tf.io.FixedLenFeature([1], tf.float32)}
            return tf.io.parse_example(serialized, features)["x"]

    model = HalfPlusTwo()
    tf.saved_model.save(
        model,
        str(path),
        {"serving_default": model.predict, "classify": model.classify, "regress": model.regress},
    )
    _add_default(path, "serving_default_of_x", "x", tf.constant([[8.0]]))


def write_functions(path: Path, signatures: Mapping[str, tuple[Any, Any]]) -> Path:
    """Write functions, each with the TensorSpec of its input, as signatures; return the path."""
    import tensorflow as tf

    module = tf.Module()
    made = {name: tf.function(f, input_signature=[spec]) for name, (f, spec) in signatures.items()}
    for name, function in made.items():
        setattr(module, name, function)
    tf.saved_model.save(module, str(path), signatures=made)
    return path


def write_tflite(path: Path, saved_model: Path) -> None:
    """Write a TensorFlow Lite model of a SavedModel's default signature."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved_model), signature_keys=["serving_default"]
    )
    path.mkdir(parents=True)
    (path / "model.tflite").write_bytes(converter.convert())


def write_oddities(path: Path, *tags: str) -> None:
    """Write a TF1 model of what few models have: dtypes, encodings and errors of all sorts."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    with tf1.Graph().as_default(), tf1.Session() as session:
        signatures: dict[str, Any] = {}
        for dtype in (tf.qint8, tf.quint8, tf.qint32, tf.int16, tf.bfloat16, tf.half, tf.string):
            x = tf1.placeholder(dtype, [None], name=f"x_{dtype.name}")
            signatures[dtype.name] = ({"x": x}, {"y": tf1.identity(x)}, PREDICT)
        index = tf1.placeholder(tf.int32, [None], name="index")
        rows = tf1.gather(tf1.constant([[1.0], [2.0], [3.0]]), index)
        signatures["gather"] = ({"index": index}, {"row": rows}, PREDICT)
        free = tf1.placeholder(tf.float32, name="free")
        square = tf1.matmul(free, tf1.constant([[1.0], [2.0]]))
        signatures["matmul"] = ({"x": free}, {"y": square}, PREDICT)
        signatures["scalar"] = ({}, {"y": tf1.constant(7.0)}, PREDICT)
        total = tf1.reduce_sum(free)
        signatures["sum"] = ({"x": free}, {"y": total}, PREDICT)
        table = tf1.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
        listed = tf1.raw_ops.EmptyTensorList(
            element_shape=tf1.constant([1]), max_num_elements=1, element_dtype=tf.float32
        )
        signatures["handles"] = (
            {"x": free},
            {"y": total, "table": table, "list": listed},
            PREDICT,
        )
        steps = tf1.placeholder(tf.int32, [], name="steps")
        walked = tf1.while_loop(lambda i: i < steps, lambda i: i + 1, [tf1.constant(0)])
        signatures["slow"] = ({"steps": steps}, {"steps": walked}, PREDICT)
        one = tf1.placeholder(tf.float32, [None], name="one")
        signatures["through"] = ({"x": one}, {"x": one, "y": one * 2}, PREDICT)
        signatures["twice"] = ({"a": one, "b": one}, {"y": one * 2}, PREDICT)
        words = tf1.placeholder(tf.string, [None], name="words")
        signatures["joined"] = ({"words": words}, {"all": tf1.strings.reduce_join(words)}, PREDICT)
        sparse = tf1.sparse_placeholder(tf.float32, [None, 3], name="sparse")
        dense = tf1.sparse_tensor_to_dense(sparse)
        signatures["sparse"] = ({"x": sparse}, {"y": dense}, PREDICT)
        both = tf1.placeholder(tf.float32, [None, 3], name="both")
        beside = {"y": both * 2, "nonzero": tf1.sparse.from_dense(both)}
        signatures["beside_sparse"] = ({"x": both}, beside, PREDICT)
        ragged = tf1.ragged.placeholder(tf.float32, 1, name="ragged")
        signatures["ragged"] = ({"x": ragged}, {"y": ragged.to_tensor()}, PREDICT)
        count = tf1.Variable(0.0, name="count", use_resource=False)
        add = tf1.placeholder(tf.float32, [], name="add")
        session.run(tf1.global_variables_initializer())
        signatures["count"] = ({"by": add}, {"count": tf1.assign_add(count, add)}, PREDICT)
        _save_tf1(session, path, signatures, tags=tags or ("serve",))


def write_misfits(path: Path) -> None:
    """Write a TF1 model whose outputs are almost those of classify and regress signatures."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    with tf1.Graph().as_default(), tf1.Session() as session:
        examples = {"inputs": tf1.placeholder(tf.string, [None], name="tf_example")}
        rows = tf1.shape(examples["inputs"])[0]
        flat = tf1.ones([rows])
        pairs = tf1.ones([rows, 2])
        labels = tf1.fill([rows, 3], "label")
        numbers = tf1.ones([rows, 2], tf.int64)
        _save_tf1(
            session,
            path,
            {
                "flat_scores": (examples, {"scores": flat}, CLASSIFY),
                "three_outputs": (examples, {"a": flat, "b": flat, "scores": pairs}, CLASSIFY),
                "number_labels": (examples, {"classes": numbers}, CLASSIFY),
                "unequal": (examples, {"classes": labels, "scores": pairs}, CLASSIFY),
                "constant_scores": (examples, {"scores": tf1.ones([1, 2])}, CLASSIFY),
                "flat_value": (examples, {"outputs": flat}, REGRESS),
                "wide_value": (examples, {"outputs": pairs}, REGRESS),
                "integer_value": (examples, {"outputs": tf1.ones([rows], tf.int32)}, REGRESS),
            },
        )


def _save_tf1(
    session: Any, path: Path, signatures: dict[str, Any], tags: tuple[str, ...] = ("serve",)
) -> None:
    import tensorflow as tf

    saved_model = tf.compat.v1.saved_model
    builder = saved_model.Builder(str(path))
    builder.add_meta_graph_and_variables(
        session,
        list(tags),
        signature_def_map={
            name: saved_model.build_signature_def(
                {alias: saved_model.build_tensor_info(t) for alias, t in inputs.items()},
                {alias: saved_model.build_tensor_info(t) for alias, t in outputs.items()},
                method_name,
            )
            for name, (inputs, outputs, method_name) in signatures.items()
        },
    )
    builder.save()


def _add_default(path: Path, name: str, alias: str, value: Any) -> None:
    """Add a copy of the default signature, in which an input may be left out."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    signatures = model.meta_graphs[0].signature_def
    signatures[name].CopyFrom(signatures["serving_default"])
    signatures[name].defaults[alias].CopyFrom(tf.make_tensor_proto(value))
    file.write_bytes(model.SerializeToString())
