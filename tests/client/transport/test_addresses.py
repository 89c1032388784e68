"""What is wrong with an address, and with the connection that was tried to it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.client.transport.addresses import advice, check_address, is_this_machine, split


@pytest.mark.parametrize(
    ("address", "is_local"),
    [
        ("localhost", True),
        ("dns:///localhost:8500", True),
        ("ipv4:127.3.2.1:8500", True),
        ("[::1]:8500", True),
        ("ipv6:[::1]:8500", True),
        ("unix-abstract:ladle", True),
        ("localhost.example.com:8500", False),
        ("dns://10.0.0.7/localhost:8500", False),
        ("127.0.0.1.example.com:8500", False),
        ("0.0.0.0:8500", False),
        ("[2001:db8::1]:8500", False),
        ("models:8500", False),
    ],
)
def test_which_addresses_are_this_machine(address: str, is_local: bool) -> None:
    assert is_this_machine(address) == is_local


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8500",
        "models-1.internal:8500",
        "127.0.0.1:8500",
        "[::1]:8500",
        "[fe80::1%eth0]:8500",
        "dns:///models.internal:8500",
        "dns:models.internal:8500",
        "dns://10.0.0.7:53/models.internal:8500",
        "ipv4:10.0.0.1:8500,10.0.0.2:8500",
        "ipv6:[::1]:8500",
        "unix:/run/ladle.sock",
        "unix:///run/ladle.sock",
        "unix-abstract:ladle",
        "xds:///models",
    ],
)
@pytest.mark.parametrize("has_tls", [False, True])
def test_what_grpc_reads_as_it_was_meant_is_taken(address: str, has_tls: bool) -> None:
    check_address(address, has_tls=has_tls)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://localhost:8501", r'without "http://".*pass "localhost:8501", with the gRPC port'),
        ("HTTPS://models/v1", r'without "HTTPS://".*pass "models", with tls=True'),
        ("grpc://localhost:8500", r'without "grpc://"'),
        ("localhost", "without a port"),
        ("::1", "without a port"),
        ("[::1]", "without a port"),
        ("dns:///models.internal", "without a port"),
        ("localhost:", 'a port from 1 to 65535.*got ""'),
        ("localhost:85000", 'a port from 1 to 65535.*got "85000"'),
        ("localhost:0", "a port from 1 to 65535"),
        ("localhost:grpc", "a port from 1 to 65535"),
        ("localhost:8500/v1/models", "a port from 1 to 65535"),
        ("localhost:" + "9" * 5_000, "a port from 1 to 65535"),
        (" localhost:8500", "expected host:port"),
        ("a b:8500", "expected host:port"),
        (":8500", "expected host:port"),
        ("a:8500,b", "without a port"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_address(address, has_tls=False)


def test_with_tls_the_port_may_be_httpss() -> None:
    check_address("models.example.com", has_tls=True)


@pytest.mark.parametrize("address", [8500, b"localhost:8500", None])
def test_an_address_is_text(address: object) -> None:
    with pytest.raises(TypeError, match="address: expected text, such as localhost:8500, got"):
        check_address(address, has_tls=False)


@given(st.text(max_size=30))
def test_any_text_is_taken_or_refused_in_one_way(address: str) -> None:
    with suppress(ValueError):
        check_address(address, has_tls=False)
    is_this_machine(address)
    split(address)


@pytest.mark.parametrize("details", ["", "the queue is full", "Connection reset by peer"])
def test_other_failures_get_no_advice(details: str) -> None:
    assert not advice(details)
