"""Unix sockets are files, and a server that was killed leaves its own behind."""

from __future__ import annotations

import os
import socket
import stat

# What fits into sockaddr_un, less the zero at its end; macOS has less room than Linux.
_MAX_PATH_BYTES = 103


def make_way(path: str) -> str | None:
    """Remove a socket that nobody listens on any more; return what else is in the way, if anything.

    gRPC by itself would take the path from a server that is alive.
    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        return f"a socket's path has at most {_MAX_PATH_BYTES} bytes"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        return None if os.path.isdir(folder) else f"there is no folder {folder}"
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISSOCK(mode):
        return "there is a file, which is no socket"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return None
        except OSError as error:
            return error.strerror or str(error)
    return "another process listens there"
