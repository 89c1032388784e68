"""What callers dial is in each call's `:authority`, and keeps no call from being answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S
from server.transport.test_cases import CASES
from transports import MakeTransport

from ladle.server.call import Call, NonBlocking

# What gRPC's libraries have put there: lists, paths, escapes, a zone, other schemes' targets.
AUTHORITIES = CASES["authorities"]


def echo(call: Call) -> None:
    call.respond(call.request)


def test_a_target_of_several_addresses_is_answered(make_transport: MakeTransport) -> None:
    transport = make_transport({"/a/B": NonBlocking(echo)}, max_threads=1)
    ports = [transport.listen("127.0.0.1:0") for _ in range(2)]
    transport.start()
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    with grpc.insecure_channel(target) as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        answers = [call(b"%d" % number, timeout=TIMEOUT_S) for number in range(3)]
    transport.stop()

    assert answers == [b"0", b"1", b"2"]


@pytest.mark.parametrize("authority", AUTHORITIES)
def test_any_authority_is_taken(
    make_transport: MakeTransport, authority: str, tmp_path: Path
) -> None:
    transport = make_transport({"/a/B": NonBlocking(echo)}, max_threads=1)
    port = transport.listen("127.0.0.1:0")
    transport.listen(f"unix:{tmp_path}/a.sock")
    transport.start()
    answers = []
    for target in (f"127.0.0.1:{port}", f"unix:{tmp_path}/a.sock"):
        options = [("grpc.default_authority", authority)]
        with grpc.insecure_channel(target, options=options) as channel:
            call: Any = channel.unary_unary("/a/B", None, None)
            # The second one names it by its place in a table.
            answers += [call(b"first", timeout=TIMEOUT_S), call(b"second", timeout=TIMEOUT_S)]
    transport.stop()

    assert answers == [b"first", b"second"] * 2
