"""The Open Inference Protocol's messages: package `inference`.

The attributes are made on first use; the stub beside this file, which the build generates, has
their types.
"""

from ladle.protos._pool import exports

__getattr__, __dir__ = exports(globals(), "inference")
