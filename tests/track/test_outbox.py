import threading
import time
import warnings
from collections.abc import Iterator, Sequence

import pytest

from dpinn.errors import DpinnWarning
from dpinn.track.outbox import METRICS_PER_REQUEST, MetricValue, Outbox


class RefusedError(Exception):
    pass


class Store:
    """Takes values, unless it is away; refuses those named ``bad``."""

    def __init__(self) -> None:
        self.away = False
        self.taken: list[object] = []
        self.batches: list[int] = []
        self.outbox = Outbox(self.take, lambda error: isinstance(error, RefusedError), "a store")

    def take(self, values: Sequence[MetricValue]) -> None:
        if self.away:
            raise ConnectionError("nobody there")
        if any(value.name == "bad" for value in values):
            raise RefusedError("bad name")
        self.batches.append(len(values))
        self.taken += [value.step for value in values]

    def log(self, steps: Sequence[int], name: str = "loss/pde") -> None:
        self.outbox.put(MetricValue(name, 1.0, step, 0) for step in steps)


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.away = False
    with warnings.catch_warnings(action="ignore"):
        store.outbox.close(5)


def test_values_arrive_once_and_in_order_in_few_requests(store: Store) -> None:
    store.log(range(2500))
    assert store.outbox.flush(5)
    assert store.taken == list(range(2500))
    assert store.batches == [METRICS_PER_REQUEST, METRICS_PER_REQUEST, 500]


def test_values_arrive_without_being_asked_for(store: Store) -> None:
    store.log([1])
    deadline = time.monotonic() + 5
    while not store.taken and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.taken == [1]


def test_an_outage_warns_once_and_loses_nothing(store: Store) -> None:
    store.log([1])
    store.outbox.flush(5)
    store.away = True
    store.log([2])
    with pytest.warns(
        DpinnWarning, match="nothing reaches the MLflow store a store .nobody there.; training"
    ):
        assert not store.outbox.flush(5)
    with warnings.catch_warnings(action="error"):
        store.log([3])
        assert not store.outbox.flush(5)
    store.away = False
    assert store.outbox.flush(5)
    assert store.taken == [1, 2, 3]


def test_errands_keep_their_place_between_values(store: Store) -> None:
    store.log([1, 2])
    store.outbox.put([lambda: store.taken.append("file")])
    store.log([3])
    assert store.outbox.flush(5)
    assert store.taken == [1, 2, "file", 3]


def test_a_file_that_fails_holds_up_no_value_and_is_tried_again(store: Store) -> None:
    def upload() -> None:
        if 3 not in store.taken:
            raise ConnectionError("no login")
        store.taken.append("file")

    store.outbox.put_file(upload)
    store.log([1, 2])
    with pytest.warns(DpinnWarning, match="no file reaches .* .no login.; training goes on"):
        assert not store.outbox.flush(5)
    assert store.taken == [1, 2]
    store.log([3])
    assert store.outbox.flush(5)
    assert store.taken == [1, 2, 3, "file"]


def test_a_refused_value_does_not_take_the_others_with_it(store: Store) -> None:
    store.log(range(5))
    store.log([5], name="bad")
    store.log(range(6, 10))
    with pytest.warns(DpinnWarning, match="refused to log something: bad name"):
        assert store.outbox.flush(5)
    assert store.taken == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_putting_does_not_wait_for_a_store_that_hangs() -> None:
    hang, answered = threading.Event(), threading.Event()

    def never_answers(values: Sequence[MetricValue]) -> None:
        hang.wait(30)
        answered.set()

    outbox = Outbox(never_answers, lambda error: False, "a store")
    outbox.put([MetricValue("a", 1.0, 0, 0)])
    assert not outbox.flush(0.3)  # the thread is now inside the request
    for step in range(1000):
        outbox.put([MetricValue("a", 1.0, step, 0)])
    assert not answered.is_set()
    hang.set()
    assert outbox.close(5) == 0


def test_close_tells_how_much_was_left(store: Store) -> None:
    store.away = True
    store.log(range(7))
    with pytest.warns(DpinnWarning):
        assert store.outbox.close(0.6) == 7
    with pytest.warns(DpinnWarning, match="after the run was finished"):
        store.log([8])
