#!/usr/local/bin/python3 -IS
"""Exits with 0 if a ladle server on this machine is ready, else with 1; a few milliseconds of CPU.

    ladle-healthcheck [PORT]

Asks /readyz on the HTTP port, 8501 if none is given, without importing ladle.
"""

import socket
import sys

TIMEOUT_S = 5


def main(port: int) -> int:
    """Ask the server on `port` and return the exit status."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            status = connection.recv(64).split(b"\r\n", 1)[0].split(b" ")[1:2]
    except OSError as error:
        print(f"port {port}: {error}")
        return 1
    if status != [b"200"]:
        print(f"/readyz: expected 200, got {b''.join(status).decode(errors='replace')}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8501))
