"""Walks a graph from a signature's outputs, through the functions that it calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ladle.server.core.servable import Signature


class GraphWalk:
    """The nodes of one `tensorflow.GraphDef`. Its methods only read."""

    def __init__(self, graph_def: Any) -> None:
        self._nodes = {node.name: node for node in graph_def.node}
        self.functions = {f.signature.name: f for f in graph_def.library.function}
        """The functions of the graph's library, by name."""

    def nodes(self, signature: Signature) -> Iterator[Any]:
        """Yield the nodes that may run for a request to a signature, each once."""
        fed = {_tensor(spec.feed_name) for spec in signature.inputs.values()}
        waiting = [_tensor(spec.feed_name) for spec in signature.outputs.values()]
        seen: set[str] = set()
        called: set[str] = set()
        while waiting:
            tensor = waiting.pop()
            name = tensor.partition(":")[0]
            if tensor in fed or name in seen or name not in self._nodes:
                continue
            seen.add(name)
            node = self._nodes[name]
            yield node
            called.update(self._called(node))
            waiting += [_tensor(i) for i in node.input]
        yield from self._in_functions(called)

    def _in_functions(self, called: Iterable[str]) -> Iterator[Any]:
        waiting = list(called)
        seen = set(waiting)
        while waiting:
            for node in self.functions[waiting.pop()].node_def:
                yield node
                for function in self._called(node):
                    if function not in seen:
                        seen.add(function)
                        waiting.append(function)

    def _called(self, node: Any) -> Iterator[str]:
        if node.op in self.functions:
            yield node.op
        for value in node.attr.values():
            if value.HasField("func"):
                names = [value.func.name]
            elif value.HasField("list"):
                names = [function.name for function in value.list.func]
            else:
                continue
            yield from (name for name in names if name in self.functions)


def _tensor(name: str) -> str:
    """Return a tensor's name in full, as `node:0`; of a control input, the node's name."""
    if name.startswith("^"):
        return name[1:]
    return name if ":" in name else f"{name}:0"
