from __future__ import annotations

import pytest

from ladle.server.saved_model.errors import one_line

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
        ("", ""),
    ],
)
def test_a_kernels_text_becomes_one_line(told: str, line: str) -> None:
    assert one_line(told) == line
