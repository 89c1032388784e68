"""TensorFlow's messages and enums: packages `tensorflow` and `tensorflow.error`.

The attributes are made on first use; the stub beside this file, which the build generates,
tells their types.
"""

from ladle.protos._pool import exports

__getattr__, __dir__ = exports(globals(), "tensorflow", "tensorflow.error")
