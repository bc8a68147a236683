import shutil
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from dpinn.track import MLflowRun
from dpinn.track.system_metrics import SystemMetrics


def test_samples_have_mlflows_names_and_the_machines_values() -> None:
    metrics = SystemMetrics()
    metrics._interval_s = 0
    found = metrics.sample()
    assert set(found) >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
        "system/disk_usage_percentage",
        "system/disk_usage_megabytes",
        "system/disk_available_megabytes",
        "system/network_receive_megabytes",
        "system/network_transmit_megabytes",
    }
    memory = psutil.virtual_memory()
    used = found["system/system_memory_usage_megabytes"]
    assert used == pytest.approx(memory.used / 1e6, abs=0.2 * memory.total / 1e6)


def test_the_last_sample_must_be_ten_seconds_old(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("dpinn.track.system_metrics.time.monotonic", lambda: clock[0])
    metrics = SystemMetrics()
    taken = []
    for second in range(100, 135):
        clock[0] = second
        taken += [second] if metrics.sample() else []
    assert taken == [110, 120, 130]


def test_mlflows_own_variables_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.000001")
    assert SystemMetrics().sample()
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    assert SystemMetrics().sample() == {}


def test_every_sample_is_stored_those_of_steps_trained_again_too(
    tmp_path: Path, made_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(made_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.000001")
    first = MLflowRun.start("e", "n")
    for step in (5, 10, 15):
        first.log_system_metrics(step)
    first.finish("KILLED")
    again = MLflowRun.start("e", "n", first.run_id)
    again.log_system_metrics(10)
    again.finish()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    held = client.get_metric_history(first.run_id, "system/disk_usage_percentage")
    assert sorted(m.step for m in held) == [5, 10, 10, 15]
