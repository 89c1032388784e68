"""The well-known types that our messages use: `Any` and the wrappers.

The attributes are made on first use; the stub beside this file, which the build generates,
tells their types.
"""

from ladle.protos._pool import exports

__getattr__, __dir__ = exports(globals(), "google.protobuf")
