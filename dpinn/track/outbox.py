"""Things on their way to the store: sent in order by one thread, repeated until they arrive."""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from dpinn.errors import DpinnWarning

METRICS_PER_REQUEST = 1000  # MLflow's limit
INTERVAL_S = 1.0  # how long values gather before they are sent
LONGEST_PAUSE_S = 60.0  # between attempts while the store is away
FIRST_PAUSE_S = 0.5  # between the last attempts, when the run is over


class MetricValue(NamedTuple):
    """One value of one metric; ``timestamp`` in milliseconds since 1970."""

    name: str
    value: float
    step: int
    timestamp: int


Errand = Callable[[], None]


class Outbox:
    """A first-in first-out queue whose items leave only when the store has taken them.

    Args:
        send_metrics: delivers up to `METRICS_PER_REQUEST` values; must be repeatable, since a
            request whose answer was lost is sent again.
        is_refusal: tells an error that repeating will not mend (the item is dropped, with a
            warning) from an outage (everything waits).
        store: what warnings call the store.
        reason: says in a few words why a request failed.
    """

    def __init__(
        self,
        send_metrics: Callable[[Sequence[MetricValue]], None],
        is_refusal: Callable[[BaseException], bool],
        store: str,
        reason: Callable[[BaseException], str] = str,
    ):
        self._send_metrics = send_metrics
        self._is_refusal = is_refusal
        self._store = store
        self._reason = reason
        self._items: deque[MetricValue | Errand] = deque()
        self._changed = threading.Condition()
        self._put = 0  # items ever put and ever settled, delivered or refused
        self._settled = 0
        self._failures = 0
        self._urgent = False
        self._closed = False
        self._outage: BaseException | None = None
        self._refusal: BaseException | None = None
        self._warned: set[str] = set()
        self._thread: threading.Thread | None = None

    def put(self, items: Iterable[MetricValue | Errand]) -> None:
        """Take items; costs microseconds, whatever the store does."""
        items = tuple(items)
        if self._closed:
            warnings.warn("logged after the run was finished: lost", DpinnWarning, stacklevel=3)
            return
        with self._changed:
            self._items.extend(items)
            self._put += len(items)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dpinn-outbox", daemon=True)
                self._thread.start()
        self._warn()

    def flush(self, timeout_s: float) -> bool:
        """Send now; True when all that was put before has arrived.

        Comes back at the first failed attempt, so that a store that is away costs one attempt.
        """
        with self._changed:
            target, failures = self._put, self._failures
            self._urgent = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._settled >= target or self._failures > failures, timeout_s
            )
            arrived = self._settled >= target
        self._warn()
        return arrived

    def close(self, timeout_s: float, patience_s: float | None = None) -> int:
        """Send what is left, end the thread, return how many items were left.

        Args:
            timeout_s: given up after it, in the midst of a request too.
            patience_s: a store that fails is tried again this long; as long as `timeout_s` if
                left out.
        """
        if self._closed:
            return len(self._items)
        now, pause = time.monotonic(), FIRST_PAUSE_S
        end = now + timeout_s
        given_up = end if patience_s is None else now + patience_s
        while not self.flush(max(0.0, end - time.monotonic())):
            left = given_up - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(pause, left))
            pause *= 2
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return len(self._items)

    def _work(self) -> None:
        pause = INTERVAL_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._urgent or self._closed, pause)
                self._urgent = False
                if self._closed:
                    return
            pause = INTERVAL_S if self._drain() else min(2 * pause, LONGEST_PAUSE_S)

    def _drain(self) -> bool:
        """Send until nothing is left (True) or the store fails (False)."""
        limit = METRICS_PER_REQUEST
        while batch := self._front(limit):
            try:
                if isinstance(batch[0], MetricValue):
                    self._send_metrics(batch)  # type: ignore[arg-type]
                else:
                    batch[0]()
            except Exception as error:
                if not self._is_refusal(error):
                    with self._changed:
                        self._outage = self._outage or error
                        self._failures += 1
                        self._changed.notify_all()
                    return False
                if len(batch) > 1:
                    limit = 1  # one bad value must not take the others with it
                    continue
                self._refusal = error
                limit = METRICS_PER_REQUEST
            with self._changed:
                for _ in batch:
                    self._items.popleft()
                self._settled += len(batch)
                self._changed.notify_all()
        return True

    def _front(self, limit: int) -> list[MetricValue | Errand]:
        """Return the first errand, or the metric values up to the next errand."""
        with self._changed:
            batch: list[MetricValue | Errand] = []
            for item in self._items:
                if not isinstance(item, MetricValue):
                    return batch or [item]
                batch.append(item)
                if len(batch) == limit:
                    break
            return batch

    def _warn(self) -> None:
        """Warn once of each kind, in the caller's thread, where filters and pytest see it."""
        if self._outage is not None and "outage" not in self._warned:
            self._warned.add("outage")
            warnings.warn(
                f"nothing reaches the MLflow store {self._store} ({self._reason(self._outage)}); "
                "training goes on, and what is logged is kept and sent later",
                DpinnWarning,
                stacklevel=4,
            )
        if self._refusal is not None and "refusal" not in self._warned:
            self._warned.add("refusal")
            warnings.warn(
                f"the MLflow store {self._store} refused to log something: "
                f"{self._reason(self._refusal)}",
                DpinnWarning,
                stacklevel=4,
            )
