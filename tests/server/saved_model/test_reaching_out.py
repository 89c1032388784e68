"""What a graph does outside of itself is told when it loads, and what it can't do is not served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from saved_models import write_functions

from ladle.server.core.errors import Code, ServingError
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model

pytestmark = pytest.mark.e2e

ID = ServableId("m", 1)


def python_function(x: Any) -> Any:
    import tensorflow as tf

    return {"y": tf.py_function(lambda value: value + 1, [x], tf.float32)}


def numpy_function(x: Any) -> Any:
    import tensorflow as tf

    return {"y": tf.numpy_function(lambda value: value + 1, [x], tf.float32)}


def spec() -> Any:
    import tensorflow as tf

    return tf.TensorSpec([None], tf.float32, "x")


@pytest.mark.parametrize("function", [python_function, numpy_function])
def test_a_model_of_python_functions_does_not_load(tmp_path: Path, function: Any) -> None:
    """Their bodies are in no SavedModel: it would be available, and fail each request."""
    write_functions(tmp_path / "1", {"serving_default": (function, spec())})
    with pytest.raises(ServingError, match=r"its signatures call Python functions .*PyFunc") as e:
        load_saved_model(ID, tmp_path / "1", LoadOptions())
    assert e.value.code is Code.FAILED_PRECONDITION


def test_a_signature_that_calls_python_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(x: Any) -> Any:
        return {"y": x + 1}

    signatures = {"python": (python_function, spec()), "plain": (plain, spec())}
    loaded = load_saved_model(ID, write_functions(tmp_path / "1", signatures), LoadOptions())
    assert list(loaded.signatures) == ["plain"]
    assert "signature=python reason=it calls a Python function" in caplog.text
    loaded.close()


def test_operations_that_touch_files_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import tensorflow as tf

    def copy(x: Any) -> Any:
        tf.io.write_file(str(tmp_path / "copy"), tf.io.read_file(x))
        return {"y": x}

    signatures = {"serving_default": (copy, tf.TensorSpec([], tf.string, "x"))}
    loaded = load_saved_model(ID, write_functions(tmp_path / "1", signatures), LoadOptions())
    assert "run Python, as the user that the server runs as model=m" in caplog.text
    assert "operations=ReadFile,WriteFile" in caplog.text
    loaded.close()


def test_a_table_of_the_versions_own_assets_is_nothing_to_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import tensorflow as tf

    (tmp_path / "words").write_text("a\nb\n")
    index = tf.lookup.TextFileIndex
    words = str(tmp_path / "words")
    made = tf.lookup.TextFileInitializer(
        words, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(made, -1)
    look_up = tf.function(
        lambda x: {"y": module.table.lookup(x)},
        input_signature=[tf.TensorSpec([None], tf.string, "x")],
    )
    tf.saved_model.save(module, str(tmp_path / "1"), {"serving_default": look_up})
    load_saved_model(ID, tmp_path / "1", LoadOptions()).close()
    assert "run Python" not in caplog.text
