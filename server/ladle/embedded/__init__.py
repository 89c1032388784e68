"""Serves models inside this process, without ports: `with Embedded(Config(...)) as embedded`.

For notebooks, for tests of what calls models, and for engines that bring ports of their own.
Requests take the path of a server's: the same batches, versions, checks and errors.
"""

from __future__ import annotations

from ladle.embedded.client import EmbeddedClient
from ladle.embedded.embedded import Embedded

__all__ = ["Embedded", "EmbeddedClient"]
