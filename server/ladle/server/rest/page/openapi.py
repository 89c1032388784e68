"""The OpenAPI document of what is answered over HTTP. Pure functions.

It is made from the table of routes and from the signatures of the models, so clients that are
generated from it know the shapes and dtypes of this server's models.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Any, TypeAlias
from urllib.parse import quote

from ladle.server.core.access import Kind
from ladle.server.core.servable import DEFAULT_SIGNATURE
from ladle.server.rest.routes import Route
from ladle.server.rpc.request import CLASSIFY_METHOD, REGRESS_METHOD

Schema: TypeAlias = "dict[str, Any]"

# Larger examples would be most of the document.
_LARGEST_EXAMPLE = 256
_PARAMETERS: dict[str, Schema] = {
    "model": {"type": "string"},
    "version": {"type": "integer", "format": "int64", "minimum": 0},
    "label": {"type": "string"},
}
_EXAMPLES_METHODS = {"classify": CLASSIFY_METHOD, "regress": REGRESS_METHOD}
_ERROR = {"$ref": "#/components/schemas/Error"}
_ANY: Schema = {}
_TEXT: Schema = {"type": "string"}
# The Open Inference Protocol's request.
_INFER: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": _TEXT,
        "parameters": {"type": "object"},
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": _TEXT,
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "datatype": _TEXT,
                    "parameters": {"type": "object"},
                    "data": {"type": "array", "items": {}},
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {"type": "object", "required": ["name"], "properties": {"name": _TEXT}},
        },
    },
}
_LEAVES: dict[str, Schema] = {
    "bool": {"type": "boolean"},
    "string": {
        "oneOf": [
            {"type": "string"},
            {
                "type": "object",
                "description": "bytes",
                "required": ["b64"],
                "properties": {"b64": {"type": "string", "format": "byte"}},
            },
        ]
    },
    **{
        f"{sign}int{bits}": {
            "type": "integer",
            "minimum": 0 if sign else -(2 ** (bits - 1)),
            "maximum": 2**bits - 1 if sign else 2 ** (bits - 1) - 1,
        }
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    **{name: {"type": "number"} for name in ("float64", "float32", "float16", "bfloat16")},
}


def document(
    routes: Iterable[Route],
    models: Sequence[Mapping[str, Any]],
    *,
    version: str,
    by_token: bool,
) -> dict[str, Any]:
    """Return the document, OpenAPI 3.0.3, as JSON's own types.

    Args:
        routes: what is answered. Routes to a prediction are there once for each model, and routes
            without a summary not at all.
        models: each model as `overview` has it.
        version: of ladle.
        by_token: whether callers need a token.
    """
    names = [model["name"] for model in models]
    paths: dict[str, dict[str, Any]] = {}
    taken: Counter[str] = Counter()
    for route in (route for route in routes if route.summary):
        for path, operation in _operations(route, models, names):
            if by_token and route.kind is not Kind.OPEN:
                operation["security"] = [{"token": []}]
            # Names of models may differ in what no identifier can have.
            taken[name := operation["operationId"]] += 1
            operation["operationId"] = name if taken[name] == 1 else f"{name}__{taken[name]}"
            paths.setdefault(path, {})[route.method.lower()] = operation
    components: dict[str, Any] = {
        "schemas": {
            "Error": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {"type": "string"}},
            }
        }
    }
    if by_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.0.3",
        "info": {"title": "ladle", "version": version, "description": _DESCRIPTION},
        "paths": paths,
        "components": components,
    }


_DESCRIPTION = (
    "TensorFlow Serving's REST API, for the models that this server has now. "
    "A model's path without a version is answered by its highest available version."
)


def _operations(
    route: Route, models: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the route's operations, with the path of each."""
    if "{model}" not in route.path or route.api not in ("predict", *_EXAMPLES_METHODS):
        parameters = dict(_PARAMETERS)
        if route.path.startswith("/v2/"):
            parameters["version"] = _TEXT  # which may be a label
        if names:
            parameters["model"] = {"type": "string", "enum": list(names)}
        tag = "models" if "{model}" in route.path else "server"
        operation = _operation(route, tag, route.path, parameters)
        if route.api == "infer":
            content = {"application/json": {"schema": _INFER}}
            operation["requestBody"] = {"required": True, "content": content}
        yield route.path, operation
        return
    for model in models:
        signatures = _available_signatures(model)
        labels = sorted({label for v in model["versions"] for label in v["labels"]})
        if "{label}" in route.path and not labels:
            continue
        body = _body(route.api, signatures)
        if body is None:
            continue
        path = route.path.replace("{model}", quote(model["name"], safe=""))
        parameters = _PARAMETERS | {"label": {"type": "string", "enum": labels}}
        operation = _operation(route, model["name"], path, parameters)
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
        if route.api == "predict":
            answer = {"schema": _one_of([_answer(s) for s in signatures.values()])}
            operation["responses"]["200"]["content"] = {"application/json": answer}
        yield path, operation


def _operation(
    route: Route, tag: str, path: str, parameters: Mapping[str, Schema]
) -> dict[str, Any]:
    words = re.sub(r"\W+", "_", f"{route.method.lower()} {path}", flags=re.ASCII).strip("_")
    operation: dict[str, Any] = {
        "operationId": words,
        "tags": [tag],
        "summary": route.summary,
        "responses": {
            "200": {"description": "The answer."},
            "default": {
                "description": "What went wrong.",
                "content": {"application/json": {"schema": _ERROR}},
            },
        },
    }
    if named := [name for _, name, _, _ in Formatter().parse(path) if name]:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": parameters.get(name, _TEXT)}
            for name in named
        ]
    return operation


def _available_signatures(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the signatures of the version that answers where none is named."""
    available = [v for v in model["versions"] if v["state"] == "AVAILABLE"]
    highest = max(available, key=lambda v: int(v["version"]), default=None)
    return highest["signatures"] if highest else {}


def _body(api: str, signatures: Mapping[str, Any]) -> Schema | None:
    """Return the JSON of a request; None where no signature takes one."""
    if api == "predict":
        if not signatures:
            return None
        first = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else min(signatures)
        body = {"schema": _one_of([_request(n, s) for n, s in sorted(signatures.items())])}
        inputs = example(signatures[first])
        if inputs is not None:
            named = {} if first == DEFAULT_SIGNATURE else {"signature_name": first}
            body["example"] = {**named, "inputs": inputs}
        return body
    method = _EXAMPLES_METHODS[api]
    fitting = sorted(n for n, s in signatures.items() if s["method_name"] == method)
    if not fitting:
        return None
    schema = {
        "type": "object",
        "required": ["examples"],
        "properties": {
            "signature_name": {"type": "string", "enum": fitting},
            "context": {"type": "object"},
            "examples": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        },
    }
    return {"schema": schema}


def _request(name: str, signature: Mapping[str, Any]) -> Schema:
    inputs = signature["inputs"]
    properties: dict[str, Any] = {"signature_name": {"type": "string", "enum": [name]}}
    forms = {"inputs": _columns(inputs)}
    if _has_rows(inputs):
        forms["instances"] = {"type": "array", "minItems": 1, "items": _row(inputs)}
    required = [] if name == DEFAULT_SIGNATURE else ["signature_name"]
    return {
        "type": "object",
        "title": name,
        "properties": properties | forms,
        "oneOf": [{"required": [*required, form]} for form in sorted(forms)],
    }


def _answer(signature: Mapping[str, Any]) -> Schema:
    outputs = signature["outputs"]
    forms = {"outputs": _columns(outputs)}
    if _has_rows(outputs):
        forms["predictions"] = {"type": "array", "items": _row(outputs)}
    return {
        "type": "object",
        "properties": forms,
        "oneOf": [{"required": [form]} for form in sorted(forms)],
    }


def _has_rows(tensors: Mapping[str, Any]) -> bool:
    return bool(tensors) and all(
        tensor["shape"] is None or tensor["shape"] for tensor in tensors.values()
    )


def _columns(tensors: Mapping[str, Any]) -> Schema:
    """Return the schema of what `inputs` or `outputs` holds."""
    schemas = {alias: _tensor(t["dtype"], t["shape"]) for alias, t in tensors.items()}
    return next(iter(schemas.values())) if len(schemas) == 1 else _object(schemas)


def _row(tensors: Mapping[str, Any]) -> Schema:
    """Return the schema of one of the `instances` or `predictions`."""
    schemas = {
        alias: _ANY if t["shape"] is None else _tensor(t["dtype"], t["shape"][1:])
        for alias, t in tensors.items()
    }
    return next(iter(schemas.values())) if len(schemas) == 1 else _object(schemas)


def _object(schemas: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(schemas)}


def _tensor(dtype: str, shape: Sequence[int] | None) -> Schema:
    """Return the schema of a tensor's JSON: lists in lists, as deep as there are dimensions."""
    if shape is None:
        return _ANY
    schema = _LEAVES.get(dtype, _ANY)
    for size in reversed(shape):
        bounds = {"minItems": size, "maxItems": size} if size >= 0 else {}
        schema = {"type": "array", "items": schema, **bounds}
    return schema


def _one_of(schemas: Sequence[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def example(signature: Mapping[str, Any]) -> Any:
    """Return the least `inputs` of a signature, zeros; None if that is too long or unknown."""
    inputs = {alias: (t["dtype"], t["shape"]) for alias, t in signature["inputs"].items()}
    if any(shape is None for _, shape in inputs.values()):
        return None
    sizes = {alias: [max(size, 1) for size in shape] for alias, (_, shape) in inputs.items()}
    if sum(math.prod(size) for size in sizes.values()) > _LARGEST_EXAMPLE:
        return None
    values = {alias: _zeros(dtype, sizes[alias]) for alias, (dtype, _) in inputs.items()}
    return next(iter(values.values())) if len(values) == 1 else values


def _zeros(dtype: str, sizes: Sequence[int]) -> Any:
    if not sizes:
        return {"bool": False, "string": ""}.get(dtype, 0)
    return [_zeros(dtype, sizes[1:]) for _ in range(sizes[0])]
