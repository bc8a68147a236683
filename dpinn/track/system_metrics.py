"""How busy the machine is, by MLflow's own monitors and names."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

PREFIX = "system/"
"""Of the names that MLflow's page shows under system metrics."""

INTERVAL_S = 10.0
"""As MLflow's own; a sample takes a quarter of a millisecond, and a few more for each GPU."""


class SystemMetrics:
    """Processor, memory, disk, network and GPUs of this machine.

    MLflow's thread for it would ask the server at every sample, and end when it is away. Its
    variables hold: ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false`` switches it off,
    ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`` sets the seconds between samples.
    """

    def __init__(self) -> None:
        from mlflow.environment_variables import (
            MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
            MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
        )

        switch = MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
        is_on = not switch.is_set() or switch.get()
        self._interval_s = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_S
        self._monitors = _monitors() if is_on else []
        self._last = time.monotonic()

    def sample(self) -> dict[str, float]:
        """Return ``system/<name>``; nothing where the last sample is not old enough."""
        now = time.monotonic()
        if now - self._last < self._interval_s:
            return {}
        self._last = now
        found: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            found |= {f"{PREFIX}{k}": v for k, v in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return found


def _monitors() -> list[BaseMetricsMonitor]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for of_gpus in (GPUMonitor, ROCMMonitor):
        with contextlib.suppress(Exception):  # no such GPU, or not the library that reads it
            monitors.append(of_gpus())
            break
    return monitors
