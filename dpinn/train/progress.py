"""Progress of a training: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

LINE_EVERY_S = 30.0
"""Seconds between two lines where standard error is no terminal."""


class TrainingProgress(ProgressBar):
    """Shows loss, error, steps per second and the time left, on rank 0."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, float] = {}
        self._enabled = True
        self._bar: Any = None

    def disable(self) -> None:
        """Show nothing; Lightning calls this on the other ranks."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step where the training stands."""
        if not self._enabled:
            return
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            disable=not terminal,
            file=sys.stderr,
        )
        self._terminal = terminal
        self._started, self._first = time.monotonic(), trainer.global_step
        self._last_line = self._started

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on."""
        if self._bar is None:
            return
        texts = {k: f"{v:.2e}" for k, v in self.shown.items()}
        if self._terminal:
            self._bar.set_postfix(texts, refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            print(self._line(trainer, texts, now), file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar before anything is printed."""
        self._close()

    def _line(self, trainer: Trainer, texts: dict[str, str], now: float) -> str:
        rate = (trainer.global_step - self._first) / (now - self._started)
        left = (trainer.max_steps - trainer.global_step) / max(rate, 1e-9)
        # Empty before the first metrics are logged.
        numbers = [f"{k} {v}" for k, v in texts.items()]
        step = f"step {trainer.global_step}/{trainer.max_steps}"
        pace = f"{rate:.1f} steps/s"
        return ", ".join([step, *numbers, pace, f"{tqdm.format_interval(left)} left"])

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
