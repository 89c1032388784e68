from __future__ import annotations

import pytest

from ladle.server.transport.native.options import ConnectionOptions, connection_options, unknown


def test_without_arguments_all_is_as_by_default() -> None:
    assert connection_options([]) == ConnectionOptions()


def test_arguments_are_read_by_grpcs_names() -> None:
    options = connection_options(
        [
            ("grpc.max_connection_age_ms", 1500),
            ("grpc.max_connection_age_ms", 9),
            ("grpc.keepalive_time_ms", (1 << 31) - 1),
            ("grpc.max_concurrent_streams", 7),
            ("grpc.so_reuseport", 1),
            ("grpc.max_allowed_incoming_connections", 5),
            ("grpc.other", "text"),
        ]
    )
    assert options == ConnectionOptions(
        max_age_s=1.5, max_connections=5, max_concurrent_streams=7, shares_ports=True
    )


def test_what_is_not_known_is_named() -> None:
    assert unknown([("grpc.other", 1), ("grpc.so_reuseport", 1)]) == ["grpc.other"]


@pytest.mark.parametrize("value", ["soon", -1, 1 << 31])
def test_a_value_that_cannot_be_is_told_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"grpc\.keepalive_time_ms: expected a number from 0"):
        connection_options([("grpc.keepalive_time_ms", value)])
