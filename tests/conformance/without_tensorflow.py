"""Import this first, and tensorflow-serving-api's stubs no longer import all of TensorFlow.

They need the messages in tensorflow.core, and a package of that name in which to find them; its own
`__init__` takes seconds, and what the stubs send does not depend on it.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

_spec = importlib.util.find_spec("tensorflow")
assert _spec is not None
assert _spec.submodule_search_locations is not None
_package = ModuleType("tensorflow")
_package.__path__ = list(_spec.submodule_search_locations)
sys.modules["tensorflow"] = _package
