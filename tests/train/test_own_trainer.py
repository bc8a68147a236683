"""A training that a user's own `lightning.Trainer` drives is recorded like any other."""

import json
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import xarray as xr

from dpinn import Box, DpinnError, Problem, load, on
from dpinn.nn import MLP
from dpinn.optim import SOAP
from dpinn.track.experiment import Experiment
from dpinn.train import Collocations, PINNTraining, Recorder, TimeWindows


class Heat(Problem):
    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u",)

    def residual(self, u):
        return {"pde": u.t - 0.1 * u.xx}

    def initial(self, u, x):
        return {"ic": u - torch.sin(torch.pi * x)}

    @on(x=(0, 1))
    def ends(self, u):
        return {"bc": u}

    def reference(self):
        return "heat.nc"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    t, x = np.linspace(0, 1, 11), np.linspace(0, 1, 9)
    u = np.exp(-0.1 * np.pi**2 * t[:, None]) * np.sin(np.pi * x)
    xr.Dataset({"u": (("t", "x"), u)}, {"t": t, "x": x}).to_netcdf("heat.nc", engine="h5netcdf")


def trained(
    steps: int, mlflow: bool, stages: TimeWindows | None = None, checkpoint: Path | None = None
) -> tuple[PINNTraining, Recorder]:
    problem = Heat()
    module = PINNTraining(
        problem,
        network=lambda inputs, outputs: MLP(inputs, outputs, width=8, depth=1),
        optimizer=lambda parameters: SOAP(parameters, lr=3e-3),
        stages=stages,
        compile="off",
    )
    recorder = Recorder(
        mlflow=mlflow, log_every=10, evaluate_every=10, checkpoint_every=10, figures=False
    )
    trainer = lightning.Trainer(
        max_steps=steps, callbacks=[recorder], accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=Collocations(problem, batch=32), ckpt_path=checkpoint)
    return module, recorder


@pytest.mark.parametrize("stages", [None, TimeWindows(2)], ids=["whole", "windows"])
def test_it_is_reported_from_its_checkpoint(stages: TimeWindows | None) -> None:
    module, recorder = trained(20, mlflow=False, stages=stages)
    assert recorder.folder is not None
    assert recorder.result is not None
    written = json.loads((recorder.folder / "evaluation.json").read_text())
    assert written == recorder.result
    reference = xr.load_dataset("heat.nc")
    grid = np.stack(np.meshgrid(reference.t, reference.x, indexing="ij"), axis=-1)
    points = torch.tensor(grid.reshape(-1, 2), dtype=torch.float32)
    with torch.no_grad():
        found = module.course.whole(module.pinn)(points)[:, 0].reshape(11, 9).double().numpy()
    error = np.linalg.norm(found - reference.u.values) / np.linalg.norm(reference.u.values)
    assert written["error/u"] == pytest.approx(error, rel=1e-5)
    assert module.pinn.training
    assert all(parameter.requires_grad for parameter in module.pinn.parameters())
    with pytest.raises(DpinnError, match="has no configuration; only runs of `dpinn fit`"):
        load(recorder.folder)


def test_its_metrics_reach_mlflow() -> None:
    _, recorder = trained(20, mlflow=True)
    (run,) = Experiment.read("heat").runs
    assert recorder.result is not None
    assert run.status == "finished"
    assert run.final_errors == {"u": recorder.result["error/u"]}
    assert list(run.histories["loss/pde"].steps) == [10, 20]


def test_it_goes_on_from_its_checkpoint() -> None:
    _, first = trained(20, mlflow=False)
    assert first.folder is not None
    _, second = trained(
        30, mlflow=False, checkpoint=(first.folder / "checkpoints/last.ckpt").absolute()
    )
    assert second.folder == first.folder.absolute()
    rows = [json.loads(row) for row in (first.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30]
