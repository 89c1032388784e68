from __future__ import annotations

import pytest

from ladle.server.transport.peer import is_local


@pytest.mark.parametrize(
    "peer",
    [
        "unix:",
        "unix:/run/ladle.sock",
        "ipv4:127.0.0.1:4711",
        "ipv4:127.8.9.1:1",
        "ipv6:[::1]:4711",
        "ipv6:%5B::1%5D:4711",
        "ipv6:[::ffff:127.0.0.1]:80",
    ],
)
def test_callers_on_this_machine(peer: str) -> None:
    assert is_local(peer)


@pytest.mark.parametrize(
    "peer",
    [
        "ipv4:10.0.0.1:4711",
        "ipv4:192.168.1.127:4711",
        "ipv6:[fe80::1%25eth0]:4711",
        "ipv6:[::ffff:10.0.0.1]:80",
        "ipv6:[2001:db8::1]:80",
        "ipv4:127.0.0.1.example.com:80",
        "vsock:2:80",
        "localhost:80",
        "127.0.0.1",
        "",
    ],
)
def test_callers_from_elsewhere(peer: str) -> None:
    assert not is_local(peer)
