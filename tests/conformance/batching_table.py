"""Fills a server's batch queue, with the stubs of tensorflow-serving-api.

Usage, by the conformance environment's Python, in the folder tests:
python -m conformance.batching_table ADDRESS
The server holds one batch of 4 rows at most, and waits long for it to be full. Prints, as JSON,
each row that went otherwise than upstream's or as ladle documents, and the number of all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import conformance.without_tensorflow  # noqa: F401 - before the stubs

# isort: split
import grpc
from conformance.error_table import TIMEOUT_S, Row, call, differing, predict, tensor, values
from tensorflow_serving.apis import prediction_service_pb2_grpc

MOST = 4
SHORT_S = 0.5
LOOKS, PAUSE_S = 200, 0.05


def main() -> None:
    """Go through the table, in its order."""
    (address,) = sys.argv[1:]
    wrong: dict[str, str] = {}
    count = 0
    with grpc.insecure_channel(address) as channel:
        predict_method = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        for row in table(predict_method):
            count += 1
            if found := differing(row):
                wrong[row.situation] = found
    print(json.dumps({"wrong": wrong, "rows": count}))


def table(method: Any) -> Iterator[Row]:
    """All rows; none leaves anything in the queue."""
    yield Row("a full batch", call(method, rows_of(MOST)), "OK", answered(MOST))
    gist = "Task size 5 is larger than maximum input batch size 4"
    yield Row("too large for a batch", call(method, rows_of(5)), "INVALID_ARGUMENT", gist)
    yield from full_rows(method)
    yield from expired_rows(method)


def full_rows(method: Any) -> Iterator[Row]:
    """Two requests that are too large for one batch: whichever comes second is refused."""
    ended: SimpleQueue[Any] = SimpleQueue()
    futures = {method.future(rows_of(rows), timeout=TIMEOUT_S): rows for rows in (3, 2)}
    for future in futures:
        future.add_done_callback(ended.put)
    refused = ended.get(timeout=TIMEOUT_S)
    gist = "The batch scheduling queue to which this task was submitted is full"
    yield Row("queue full", refused.result, "UNAVAILABLE", gist)
    del futures[refused]
    ((waits, rows),) = futures.items()
    filling = rows_of(MOST - rows, first=10)
    yield Row("the rest of the batch", call(method, filling), "OK", answered(MOST - rows, 10))
    yield Row("what waited meanwhile", waits.result, "OK", answered(rows))


def expired_rows(method: Any) -> Iterator[Row]:
    """Requests whose deadline passes while they wait for others."""
    send = call(method, rows_of(3), SHORT_S)
    yield Row("all members expired", send, "DEADLINE_EXCEEDED", "")
    # With the expired rows still in the queue there would be no room for these.
    send = once_there_is_room(method, rows_of(MOST, first=20))
    yield Row("they are not run", send, "OK", answered(MOST, 20))
    waits = method.future(rows_of(2), timeout=TIMEOUT_S)
    send = call(method, rows_of(1, first=30), SHORT_S)
    yield Row("one member expired", send, "DEADLINE_EXCEEDED", "")
    send = once_there_is_room(method, rows_of(2, first=40))
    yield Row("another in its place", send, "OK", answered(2, 40))
    yield Row("the member that waited on", waits.result, "OK", answered(2))


def once_there_is_room(method: Any, request: Any) -> Callable[[], Any]:
    """Return what sends the request, again while the queue is full.

    A client may see its own deadline pass a moment before the server does.
    """

    def send() -> Any:
        for _ in range(LOOKS):
            try:
                return method(request, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            time.sleep(PAUSE_S)
        return method(request, timeout=TIMEOUT_S)

    return send


def rows_of(rows: int, first: int = 0) -> Any:
    """Return a request of so many rows, counting up from `first`."""
    content = [float(first + row) for row in range(rows)]
    return predict(inputs={"x": tensor(content, rows, 1)})


def answered(rows: int, first: int = 0) -> Callable[[Any], bool]:
    """Return whether a response is that to `rows_of`."""
    wanted = [(first + row) / 2 + 2 for row in range(rows)]
    return lambda response: values(response, "y") == wanted


if __name__ == "__main__":
    main()
