"""`ladle serve`: the command line around a Server, or around several processes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladle.server.config import Config
from ladle.server.flags import settings
from ladle.server.monitoring import console
from ladle.server.wiring.running import Standalone, run


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C, and end the process; return only the code of bad settings."""
    console.open_standard_streams()
    return serve(settings(argv))


def serve(given: Mapping[str, Any]) -> int:
    """Serve what `given`, arguments of Config, asks for; as `main`."""
    try:
        config = Config(**given)
    except ValueError as error:
        console.complain(str(error), log_format=str(given.get("log_format", "text")))
        return 2
    if config.workers > 1:
        # Imported late: one process needs nothing of it.
        from ladle.server.wiring.workers.supervising.supervisor import supervise

        return supervise(config, given)
    return run(config, Standalone(config.log_format))
