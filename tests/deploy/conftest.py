"""Kubernetes's schemas, for all tests of manifests."""

from __future__ import annotations

import os

import pytest
from deploy.schemas import WHEELS, Schemas


@pytest.fixture(scope="session")
def schemas() -> Schemas:
    wheels = sorted(WHEELS.glob("kubernetes_validate-*.whl"))
    if not wheels:
        reason = f"no kubernetes-validate in {WHEELS}; `make install` puts it there"
        if os.environ.get("CI"):
            pytest.fail(reason)  # CI that skips this would guard nothing
        pytest.skip(reason)
    return Schemas(wheels[-1])
