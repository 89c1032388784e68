"""The scan of graphs for operations that reach out; it reads messages and runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ladle.export import CheckError
from ladle.export.saved_model.operations import check_operations


def write(folder: Path, function: Callable[[Any], Any]) -> Path:
    """Write a SavedModel whose one signature runs `function` on a string."""
    import tensorflow as tf

    module = tf.Module()
    module.weight = tf.Variable(1.0)  # brings SaveV2 and RestoreV2
    spec = tf.TensorSpec([], tf.string, "x")
    module.serve = tf.function(lambda x: {"y": function(x)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


def test_what_restores_variables_is_no_reason_to_refuse(tmp_path: Path) -> None:
    import tensorflow as tf

    check_operations(write(tmp_path, lambda x: tf.io.decode_image(x, expand_animations=False)))


def test_an_operation_that_reads_files_is_refused_and_may_be_allowed_by_name(
    tmp_path: Path,
) -> None:
    import tensorflow as tf

    write(tmp_path, tf.io.read_file)
    with pytest.raises(CheckError, match=r"the graph holds ReadFile.*--allow-op=ReadFile") as error:
        check_operations(tmp_path)
    assert error.value.check == "operations"
    with pytest.raises(CheckError, match="ReadFile"):
        check_operations(tmp_path, ["WriteFile"])
    check_operations(tmp_path, ["ReadFile"])


def test_functions_called_by_functions_are_walked(tmp_path: Path) -> None:
    import tensorflow as tf

    def innermost(x: Any) -> Any:
        tf.io.write_file("/nowhere", x)
        return x

    compiled = tf.function(innermost)

    def outer(x: Any) -> Any:
        return tf.cond(tf.equal(x, ""), lambda: x, lambda: tf.identity(compiled(x)))

    with pytest.raises(CheckError, match="WriteFile"):
        check_operations(write(tmp_path, outer))


def test_python_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    def python(x: Any) -> Any:
        x = tf.py_function(lambda t: t, [x], tf.string)
        return tf.numpy_function(lambda t: t, [x], tf.string)

    with pytest.raises(CheckError, match="holds EagerPyFunc, PyFunc,"):
        check_operations(write(tmp_path, python))


def test_a_signature_that_saves_or_restores_is_refused(tmp_path: Path) -> None:
    """The same operations that every SavedModel restores its variables by."""
    import tensorflow as tf

    def restore(x: Any) -> Any:
        return tf.raw_ops.RestoreV2(
            prefix=x, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
        )[0]

    with pytest.raises(CheckError, match="holds RestoreV2,"):
        check_operations(write(tmp_path, restore))


def test_a_graph_of_tf1_is_scanned_too(tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        x = v1.placeholder(tf.string, [])
        y = tf.io.matching_files(x)
        v1.saved_model.simple_save(session, str(tmp_path / "m"), {"x": x}, {"y": y})
    with pytest.raises(CheckError, match="holds MatchingFiles,"):
        check_operations(tmp_path / "m")
