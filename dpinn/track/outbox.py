"""Things on their way to the store: sent by one thread, repeated until they arrive."""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

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

Queue: TypeAlias = "deque[MetricValue | Errand]"


class Outbox:
    """First-in first-out queues whose items leave only when the store has taken them.

    Files have a queue of their own, behind all else: where they are kept is often another server,
    which may be away, or want a login that this machine has not.

    Args:
        send_metrics: delivers up to `METRICS_PER_REQUEST` values; must be repeatable, since a
            request whose answer was lost is sent again.
        is_refusal: tells an error that repeating will not mend (the item is dropped, with a
            warning) from an outage (everything waits).
        store: what warnings call the store.
        reason: says in a few words why a request failed.

    Attributes:
        last_failure: why the last attempt that failed did so.
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
        self._items: Queue = deque()
        self._files: Queue = deque()
        self._changed = threading.Condition()
        self._failures = 0
        self._urgent = False
        self._closed = False
        self.last_failure = "no answer yet"
        self._told: deque[str] = deque()  # by the thread, for the next caller to warn of
        self._known: set[str] = set()
        self._thread: threading.Thread | None = None

    def put(self, items: Iterable[MetricValue | Errand]) -> None:
        """Take items; costs microseconds, whatever the store does."""
        self._take(self._items, tuple(items))

    def put_file(self, upload: Errand) -> None:
        """Take an upload, to be done once all else has been sent."""
        self._take(self._files, (upload,))

    def _take(self, queue: Queue, items: Sequence[MetricValue | Errand]) -> None:
        if self._closed:
            warnings.warn("logged after the run was finished: lost", DpinnWarning, stacklevel=4)
            return
        with self._changed:
            queue.extend(items)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dpinn-outbox", daemon=True)
                self._thread.start()
        self._warn()

    def flush(self, timeout_s: float) -> bool:
        """Send now; True when all that was put before has arrived.

        Comes back at the first failed attempt, so that a store that is away costs one attempt.
        """
        with self._changed:
            failures = self._failures
            self._urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._left() or self._failures > failures, timeout_s)
            arrived = not self._left()
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
            return self._left()
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
            return self._left()

    def _left(self) -> int:
        return len(self._items) + len(self._files)

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
        return self._drain_queue(self._items, "nothing") and self._drain_queue(
            self._files, "no file"
        )

    def _drain_queue(self, queue: Queue, what: str) -> bool:
        limit = METRICS_PER_REQUEST
        while batch := self._front(queue, limit):
            try:
                if isinstance(batch[0], MetricValue):
                    self._send_metrics(batch)  # type: ignore[arg-type]
                else:
                    batch[0]()
            except Exception as error:
                if not self._is_refusal(error):
                    self.last_failure = self._reason(error)
                    self._tell(
                        f"{what} reaches the MLflow store {self._store} ({self.last_failure}); "
                        "training goes on, and what is logged is kept and sent later",
                        kind=what,
                    )
                    with self._changed:
                        self._failures += 1
                        self._changed.notify_all()
                    return False
                if len(batch) > 1:
                    limit = 1  # one bad value must not take the others with it
                    continue
                self._tell(
                    f"the MLflow store {self._store} refused to log something: "
                    f"{self._reason(error)}",
                    kind="refusal",
                )
                limit = METRICS_PER_REQUEST
            with self._changed:
                for _ in batch:
                    queue.popleft()
                self._changed.notify_all()
        return True

    def _front(self, queue: Queue, limit: int) -> list[MetricValue | Errand]:
        """Return the first errand, or the metric values up to the next errand."""
        with self._changed:
            batch: list[MetricValue | Errand] = []
            for item in queue:
                if not isinstance(item, MetricValue):
                    return batch or [item]
                batch.append(item)
                if len(batch) == limit:
                    break
            return batch

    def _tell(self, sentence: str, kind: str) -> None:
        """Warn once of each kind, by way of whoever calls next."""
        if kind not in self._known:
            self._known.add(kind)
            self._told.append(sentence)

    def _warn(self) -> None:
        """Warn in the caller's thread, where filters and pytest see it."""
        while self._told:
            warnings.warn(self._told.popleft(), DpinnWarning, stacklevel=4)
