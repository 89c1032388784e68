from __future__ import annotations

import pickle

import grpc
import pytest

from ladle.client import errors

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (Code.INVALID_ARGUMENT, errors.InvalidInput),
        (Code.OUT_OF_RANGE, errors.InvalidInput),
        (Code.NOT_FOUND, errors.NotFound),
        (Code.FAILED_PRECONDITION, errors.FailedPrecondition),
        (Code.UNIMPLEMENTED, errors.Unimplemented),
        (Code.UNAUTHENTICATED, errors.Unauthenticated),
        (Code.PERMISSION_DENIED, errors.PermissionDenied),
        (Code.RESOURCE_EXHAUSTED, errors.Overloaded),
        (Code.UNAVAILABLE, errors.Unavailable),
        (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (Code.CANCELLED, errors.Cancelled),
        (Code.INTERNAL, errors.ServerError),
        (Code.UNKNOWN, errors.ServerError),
        (Code.DATA_LOSS, errors.ServerError),
        (Code.ABORTED, errors.ServerError),
        (Code.ALREADY_EXISTS, errors.ServerError),
    ],
)
def test_each_status_has_the_class_of_its_cause(
    code: grpc.StatusCode, cause: type[errors.LadleError]
) -> None:
    error = errors.from_status(code, "the reason", "Predict at here:1")
    assert type(error) is cause
    assert (error.code, error.details) == (code, "the reason")
    assert str(error) == f"Predict at here:1: {code.name}: the reason"


def test_every_status_but_ok_is_mapped() -> None:
    for code in set(Code) - {Code.OK}:
        assert errors.from_status(code, "", "asked").code is code


def test_a_status_without_words_is_still_told() -> None:
    assert str(errors.from_status(Code.UNIMPLEMENTED, "", "asked")) == "asked: UNIMPLEMENTED"


@pytest.mark.parametrize(
    "details",
    [
        "CLIENT: Received message larger than max (5 vs. 4)",
        "SERVER: Received message larger than max (5 vs. 4)",
        "CLIENT: Sent message larger than max (5 vs. 4)",
    ],
)
def test_a_message_over_a_limit_is_no_overload(details: str) -> None:
    """Sending it again later would end the same way."""
    error = errors.from_status(Code.RESOURCE_EXHAUSTED, details, "asked")
    assert type(error) is errors.MessageTooLarge


def test_an_rpc_error_becomes_the_cause() -> None:
    original = grpc.RpcError("no call behind it")
    error = errors.from_rpc_error(original, "asked")
    assert error.__cause__ is original
    assert error.code is Code.UNKNOWN


def test_what_this_client_finds_has_the_code_that_a_server_would_give() -> None:
    error = errors.InvalidInput('input "x": expected, got')
    assert error.code is Code.INVALID_ARGUMENT
    assert error.details == str(error)


def test_errors_travel_between_processes() -> None:
    error = errors.from_status(Code.DATA_LOSS, "why", "asked")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.code, copy.details) == (
        errors.ServerError,
        "asked: DATA_LOSS: why",
        Code.DATA_LOSS,
        "why",
    )


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    error = errors.from_status(
        grpc.StatusCode.INTERNAL, "first\n\tsecond \x1b[31m é", "Predict at a:1"
    )
    assert str(error) == r"Predict at a:1: INTERNAL: first\n\tsecond \x1b[31m é"
    assert error.details == "first\n\tsecond \x1b[31m é"


def test_a_message_is_bounded() -> None:
    error = errors.from_status(grpc.StatusCode.INTERNAL, "x" * 1_000_000, "it")
    assert len(str(error)) == 2_003
    assert len(error.details) == 1_000_000


def test_what_became_of_a_fleet_survives_a_change_of_process() -> None:
    gone = errors.Unavailable("gone")
    error = errors.FleetError("health failed", results={"a:1": True}, errors={"b:1": gone})
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.code, again.results) == ("health failed", gone.code, {"a:1": True})
    assert str(again.errors["b:1"]) == "gone"
