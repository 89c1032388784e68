"""Our own messages: package `ladle.v1`, and `ladle.internal`, which no client sends.

The attributes are made on first use; the stub beside this file, which the build generates,
tells their types.
"""

from ladle.protos._pool import exports

__getattr__, __dir__ = exports(globals(), "ladle.v1", "ladle.internal")
