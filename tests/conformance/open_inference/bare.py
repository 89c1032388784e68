"""Imports modules of packages whose own imports want a whole server that is not installed."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def bare(*packages: str) -> None:
    """Put packages in place without running their `__init__`; outer ones come first."""
    for name in packages:
        outer, _, inner = name.rpartition(".")
        module = ModuleType(name)
        if outer:
            module.__path__ = [f"{path}/{inner}" for path in sys.modules[outer].__path__]
            setattr(sys.modules[outer], inner, module)
        else:
            found = importlib.util.find_spec(name)
            assert found is not None, f"{name} is not installed"
            module.__path__ = list(found.submodule_search_locations or ())
        sys.modules[name] = module
