from __future__ import annotations

import pytest

from ladle.server.core.errors import Code
from ladle.server.saved_model.errors import load_error, one_line, serving_error

SIZES = "Matrix size-incompatible: In[0]: [2,3], In[1]: [2,1]"


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ("x must be positive\n\t [[{{node Log}}]]\n\t [[y]]", "x must be positive"),
        ("{{function_node __inference_f_7}} {{node a/b}} bad x", "bad x"),
        (
            "2 root error(s) found.\n  (0) INVALID_ARGUMENT: bad x\n\t [[{{node a}}]]\n"
            "  (1) INVALID_ARGUMENT: bad x\n\t [[{{node a}}]]\n\t [[b]]",
            "bad x",
        ),
        ("assertion failed: \n[1]\n[2]", "assertion failed: [1] [2]"),
        # oneDNN's kernels, and TensorFlow's own.
        ("Matrix size-incompatible: In[0]: [2,3], In[1]: [2,1] 0 0", SIZES),
        ("{{node a}} Matrix size-incompatible: In[0]: [2,3], In[1]: [2,1] 1 0\n\t [[b]]", SIZES),
        (SIZES, SIZES),
        (
            "Graph execution error:\n\n"
            "Detected at node MatMul defined at (most recent call last):\n"
            '  File "/home/me/train.py", line 3, in <module>\n\n'
            '  File "/usr/lib/k.py", line 9, in f\n'
            "Node: 'MatMul'\nIncompatible shapes: [2] vs. [3]\n\t [[{{node MatMul}}]]",
            "Graph execution error: Incompatible shapes: [2] vs. [3]",
        ),
        (
            "ValueError: bad\nTraceback (most recent call last):\n\n"
            '  File "/usr/lib/f.py", line 1, in __call__\n    ret = func(*args)\n'
            "\nValueError: bad\n\n",
            "ValueError: bad ValueError: bad",
        ),
        (
            'bad x\nStack trace for op definition: \nFile "a/b.py", line 2, in f\n  y = x\n',
            "bad x",
        ),
        (
            "NewRandomAccessFile failed to Open: '/models/m/1/assets/words.txt'; No such file",
            "NewRandomAccessFile failed to Open: 'words.txt'; No such file",
        ),
        (
            "Cannot parse file b'/models/m/1/saved_model.pb': bad",
            "Cannot parse file b'saved_model.pb': bad",
        ),
        ("SavedModel file does not exist at: /models/m/1/", "SavedModel file does not exist at: 1"),
        (
            "on /job:localhost/replica:0/task:0/device:CPU:0 and/or a/b/c",
            "on /job:localhost/replica:0/task:0/device:CPU:0 and/or a/b/c",
        ),
        (
            "No OpKernel was registered to support Op 'X' used by {{node X}} with these attrs: []",
            "this server has no kernel for an operation of the model: "
            "No OpKernel was registered to support Op 'X' used by with these attrs: []",
        ),
        (
            "Cannot assign a device for operation f: no GPU devices. Available: [/device:CPU:0]",
            "the model asks for a GPU, and this server has none: "
            "Cannot assign a device for operation f: no GPU devices. Available: [/device:CPU:0]",
        ),
        ("", ""),
    ],
)
def test_a_kernels_text_becomes_one_line(told: str, line: str) -> None:
    assert one_line(told) == line


def test_a_model_with_other_tags_says_which_and_the_flag() -> None:
    told = (
        "MetaGraphDef associated with tags 'gpu' could not be found in SavedModel, with available "
        "tags '[{'serve'}]'. To inspect available tag-sets in the SavedModel, please use the "
        "SavedModel CLI: `saved_model_cli`."
    )
    error = load_error(RuntimeError(told))
    assert (error.code, error.message) == (
        Code.NOT_FOUND,
        "MetaGraphDef associated with tags 'gpu' could not be found in SavedModel, with available "
        "tags '[{'serve'}]'. --saved_model_tags says which to load.",
    )


def test_lack_of_memory_is_told_as_tensorflow_tells_it() -> None:
    error = serving_error(MemoryError("Unable to allocate 8.00 EiB"))
    assert (error.code, error.message) == (Code.RESOURCE_EXHAUSTED, "memory has run out")


def test_variables_of_another_model_are_told() -> None:
    """Python's loader looks for the variables by their older names then, and finds no graph's."""
    error = load_error(ValueError("No variables to save"))
    assert error.code is Code.DATA_LOSS
    assert error.message == (
        "the files in variables/ hold none of the variables that the graph restores: "
        "they are of another model"
    )
