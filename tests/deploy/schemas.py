"""Kubernetes's schemas of its resources, in the wheel of the package kubernetes-validate."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

WHEELS = Path(__file__).resolve().parents[2] / ".venv" / "wheels"
_FOLDER = re.compile(r"(.+/v(\d+)\.(\d+)\.\d+-local-strict/)_definitions\.json")


class Schemas:
    """The strict schemas, which take no field that they don't know, of each version."""

    def __init__(self, wheel: Path) -> None:
        self._wheel = zipfile.ZipFile(wheel)
        found = filter(None, map(_FOLDER.fullmatch, self._wheel.namelist()))
        self._folders = {
            (int(major), int(minor)): folder
            for folder, major, minor in (match.groups() for match in found)
        }

    @property
    def newest(self) -> str:
        """The newest version that is known, such as 1.31."""
        return "{}.{}".format(*max(self._folders))

    def validate(self, resource: Any, version: str) -> None:
        """See that Kubernetes takes the resource.

        Raises:
            jsonschema.ValidationError: It does not.
            KeyError: There is no such version, or no such kind of resource in it.
        """
        major, minor = version.split(".")
        folder = self._folders[int(major), int(minor)]
        # apps/v1 is written apps-v1, and policy/v1 without the domain that a group may have.
        group, _, number = resource["apiVersion"].rpartition("/")
        name = "-".join(filter(None, (resource["kind"].lower(), group.partition(".")[0], number)))
        schema, definitions = (
            self._read(f"{folder}{name}.json"),
            self._read(f"{folder}_definitions.json"),
        )
        known = [Resource.from_contents(contents) for contents in (schema, definitions)]
        registry: Registry[Any] = known @ Registry()
        Draft202012Validator(schema, registry=registry).validate(resource)

    def _read(self, name: str) -> Any:
        return json.loads(self._wheel.read(name))
