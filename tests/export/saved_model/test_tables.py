"""Lookup tables are written with a version, and the files that they are made of as its assets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checking import run_in_this_process

from ladle.export import CheckError, ExportError
from ladle.export.saved_model.operations import check_operations
from ladle.export.saved_model.subprocess_check import Request

pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # Keras's


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("four\nby\n")
    return path


def from_file(path: Path) -> Any:
    import tensorflow as tf

    whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    return tf.lookup.TextFileInitializer(str(path), tf.string, whole, tf.int64, number)


def static(path: Path) -> Any:
    import tensorflow as tf

    return tf.lookup.StaticHashTable(from_file(path), -1)


def with_buckets(path: Path) -> Any:
    import tensorflow as tf

    return tf.lookup.StaticVocabularyTable(from_file(path), 3)


def mutable(path: Path) -> Any:
    import tensorflow as tf

    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    lines = path.read_text().split()
    table.insert(tf.constant(lines), tf.constant(range(len(lines)), tf.int64))
    return table


def layer(path: Path) -> Any:
    import keras

    return SimpleNamespace(
        lookup=keras.layers.StringLookup(vocabulary=str(path), num_oov_indices=0).call
    )


@pytest.mark.parametrize("make", [static, with_buckets, mutable, layer])
def test_a_signature_may_look_up_in_a_table(
    tmp_path: Path, words: Path, make: Callable[[Path], Any]
) -> None:
    import tensorflow as tf

    from ladle.export.saved_model.signatures import Endpoint, write_saved_model

    table = make(words)

    def find(word: Any) -> dict[str, Any]:
        return {"place": tf.cast(table.lookup(word), tf.int64)}

    folder = tmp_path / "m"
    spec = tf.TensorSpec([None], tf.string, "word")
    write_saved_model({"find": Endpoint(function=find, inputs=(spec,))}, folder)
    words.unlink()
    check_operations(folder)
    asked = Request(signature="find", inputs={"word": np.array(["by", "four"], object)})
    (answer,) = run_in_this_process(folder, [asked])
    assert answer.outputs["place"].tolist() == [1, 0]


def test_what_can_be_no_graph_says_what_a_layer_may_use(tmp_path: Path) -> None:
    import tensorflow as tf

    from ladle.export.saved_model.signatures import Endpoint, write_saved_model

    def peek(x: Any) -> dict[str, Any]:
        return {"y": x * float(x.numpy().mean())}

    spec = tf.TensorSpec([None], tf.float32, "x")
    with pytest.raises(ExportError, match=r"can't be made a graph: a layer has to .*numpy"):
        write_saved_model({"peek": Endpoint(function=peek, inputs=(spec,))}, tmp_path / "m")


def test_what_is_neither_variable_nor_table_is_refused_with_what_can_be(tmp_path: Path) -> None:
    import tensorflow as tf

    from ladle.export.saved_model.signatures import Endpoint, write_saved_model

    queue = tf.queue.FIFOQueue(3, [tf.float32])

    def size(x: Any) -> dict[str, Any]:
        return {"y": x + tf.cast(queue.size(), tf.float32)}

    spec = tf.TensorSpec([None], tf.float32, "x")
    with pytest.raises(ExportError, match=r"only variables and tables of tf\.lookup"):
        write_saved_model({"size": Endpoint(function=size, inputs=(spec,))}, tmp_path / "m")


@pytest.mark.parametrize("is_spied_on", [False, True])
def test_a_table_from_any_other_file_is_refused(
    tmp_path: Path, words: Path, is_spied_on: bool
) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.table = static(words)
    word, path = tf.TensorSpec([None], tf.string, "word"), tf.TensorSpec([], tf.string, "path")

    def find(word: Any) -> dict[str, Any]:
        return {"place": module.table.lookup(word)}

    def spy(path: Any) -> None:
        handle = module.table.resource_handle
        tf.raw_ops.InitializeTableFromTextFileV2(
            table_handle=handle, filename=path, key_index=-2, value_index=-1
        )

    module.find = tf.function(find, input_signature=[word])
    if is_spied_on:
        # All functions of a module are saved, and whoever knows its name can ask for one.
        module.spy = tf.function(spy, input_signature=[path])
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"find": module.find})
    if not is_spied_on:
        check_operations(tmp_path / "m")
        return
    with pytest.raises(CheckError, match="InitializeTableFromTextFileV2"):
        check_operations(tmp_path / "m")
