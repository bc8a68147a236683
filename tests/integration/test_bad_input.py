"""Each mistake ends with one sentence, an exit code that is not 0, and nothing half-written."""

from pathlib import Path
from typing import Any

import pytest
import torch

PROBLEM = """
import torch
from dpinn import Box, Problem, on

class Mine(Problem):
    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    fields = ("u",)
"""

CONFIGURATIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown key": ({"model.netwrok": 1}, ["model.netwrok"]),
    "an unknown key at the top": ({"modle": {"clip": 1}}, ["modle"]),
    "an unknown argument of a class": ({"model.network.init_args.widht": 8}, ["widht", "network"]),
    "a wrong type": ({"data.batch": "many"}, ["data.batch", "int", "many"]),
    "a wrong type where null is allowed": ({"model.clip": "x"}, ["model.clip", "float", "x"]),
    "a wrong type within a class": (
        {"model.schedule": {"warmup_steps": "x"}},
        ["model.schedule", "warmup_steps", "int"],
    ),
    "a word that is none of the choices": ({"model.compile": "maybe"}, ["compile", "auto", "off"]),
    "an unknown problem": ({"problem": "dpinn.problems.Heat"}, ["problem", "Heat"]),
    "an unknown module": ({"problem": "my_missing_pde.Heat"}, ["problem", "my_missing_pde"]),
    "an unknown optimizer": ({"model.optimizer.class_path": "dpinn.optim.SOPA"}, ["SOPA"]),
    "a negative learning rate": ({"model.optimizer.init_args.lr": -1.0}, ["lr", "-1"]),
    "a batch that does not divide": ({"data.batch": 66}, ["66", "4 causal chunks", "64 or 68"]),
    "an interval between inner steps": ({"tracking.log_every": 7}, ["tracking.log_every", "7"]),
    "steps between inner steps": ({"trainer.max_steps": 21}, ["trainer.max_steps", "21"]),
    "no number of steps": ({"trainer": {}}, ["trainer.max_steps"]),
    "weights between inner steps": (
        {
            "model.weights": {
                "class_path": "dpinn.loss.GradientNormWeights",
                "init_args": {"every": 7},
            }
        },
        ["model.weights.every", "7"],
    ),
    "a momentum out of range": (
        {
            "model.weights": {
                "class_path": "dpinn.loss.NTKWeights",
                "init_args": {"momentum": 2.0},
            }
        },
        ["momentum 2.0 in [0, 1)"],
    ),
    "a negative tolerance": ({"model.causal_tolerance": -1.0}, ["tolerance -1.0", "not negative"]),
    "a schedule of tolerances that fall": (
        {
            "model.causal_tolerance": {
                "class_path": "dpinn.loss.RisingTolerance",
                "init_args": {"tolerances": [1.0, 0.1]},
            }
        },
        ["tolerances [1.0, 0.1]", "increase"],
    ),
    "more points drawn than there are": (
        {
            "data.resampling": {
                "class_path": "dpinn.sampling.ResidualResampling",
                "init_args": {"every": 5, "pool": 9, "candidates": 8},
            }
        },
        ["pool", "candidates"],
    ),
    "alignment between inner steps": ({"model.alignment": {"every": 7}}, ["alignment.every", "7"]),
    "points of no condition": ({"data.points": {"walls": 9}}, ["walls", "initial, ends"]),
    "a weight of no term": (
        {
            "model.weights": {
                "class_path": "dpinn.loss.FixedWeights",
                "init_args": {"weights": {"wall": 9.0}},
            }
        },
        ["wall", "pde, ic, ic_t, bc"],
    ),
    "half precision": ({"trainer.precision": "bf16-true"}, ["bf16-true", "32-true"]),
    "mixed precision": ({"trainer.precision": "16-mixed"}, ["16-mixed", "64-true"]),
    "gradients of several batches": (
        {"trainer.accumulate_grad_batches": 2},
        ["trainer.accumulate_grad_batches is 2", "data.batch"],
    ),
    "a profiler": ({"trainer.profiler": "simple"}, ["trainer.profiler", "dpinn bench step"]),
    "an end of epochs": ({"trainer.limit_train_batches": 5}, ["trainer.max_steps"]),
    "Lightning's own clipping": ({"trainer.gradient_clip_val": 1.0}, ["gradient_clip_val"]),
}

PROBLEMS: dict[str, tuple[str, list[str]]] = {
    "no residual": ("", ["Mine has no residual", "define residual(self, u, t, x)"]),
    "a residual that returns nothing": ("    def residual(self, u): u.t", ["returned nothing"]),
    "a residual of the wrong shape": (
        '    def residual(self, u): return {"pde": u.t.sum()}',
        ["Mine.residual", "'pde' has shape ()"],
    ),
    "a derivative of no coordinate": (
        '    def residual(self, u): return {"pde": u.q}',
        ["Mine.residual", "u.q", "t, x"],
    ),
    "a syntax error": (
        '    def residual(self, u): return {"pde": u.t',
        ["my_pde.py, line 8", "never closed"],
    ),
    "a name that is not defined": (
        '    def residual(self, u): return {"pde": u.t + nu}',
        ["Mine.residual: NameError", "'nu'", "my_pde.py, line 8"],
    ),
    "a division by zero in Python": (
        '    def residual(self, u): return {"pde": u.t * (1 / 0)}',
        ["Mine.residual: ZeroDivisionError", "my_pde.py, line 8"],
    ),
    "a division by zero in a tensor": (
        '    def residual(self, u, x): return {"pde": u.t / (x - x)}',
        ["loss term 'pde' is", "at step 0"],
    ),
    "a term that couples the points": (
        '    def residual(self, u): return {"pde": u.t - u.value.mean()}',
        ["Mine.residual: the term 'pde' depends at one point on the other points", "my_pde.py"],
    ),
    "a term without a gradient": (
        '    def residual(self, u): return {"pde": u.t, "sign": torch.sign(u)}',
        ["Mine.residual: the term 'sign' has no gradient", "my_pde.py, line 8"],
    ),
    "a parameter that nothing trains": (
        "    k = torch.nn.Parameter(torch.ones(()))\n"
        '    def residual(self, u): return {"pde": u.t - self.k * u.xx}',
        ["Mine: self.k is a tensor that requires a gradient", "self.k.requires_grad_(False)"],
    ),
    "a branch in Python": (
        '    def residual(self, u, x): return {"pde": u.t if x < 0 else u.x}',
        ["Mine.residual", "torch.where", "my_pde.py, line 8"],
    ),
    "a face that is none": (
        '    def residual(self, u): return {"pde": u.t}\n'
        '    @on(x=0)\n    def wall(self, u): return {"bc": u}',
        ["Mine.wall", "x = 0", "-1 or 1"],
    ),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_mistake_in_a_configuration_is_named(case: str, work: Any) -> None:
    changes, fragments = CONFIGURATIONS[case]
    sentence = work("fit", "--config", work.config({"tracking.mlflow": True} | changes)).sentence
    assert [f for f in fragments if f not in sentence] == [], sentence
    assert work.left == set()


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_mistake_in_a_problem_is_named(case: str, work: Any) -> None:
    body, fragments = PROBLEMS[case]
    work.file("my_pde.py", f"{PROBLEM}{body}\n")
    config = work.config({"problem": "my_pde.Mine", "tracking.mlflow": True})
    sentence = work("fit", "--config", config).sentence
    assert [f for f in fragments if f not in sentence] == [], sentence
    assert work.left == set()


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["train"], ["'train'", "fit, submit, jobs, evaluate, results", "doctor"]),
        (["fit"], ["required", "problem"]),
        (["fit", "--config", "missing.yaml"], ["missing.yaml"]),
        (["fit", "-c", "tiny.yaml", "--model.clipp", "3"], ["--model.clipp"]),
        (["fit", "-c", "tiny.yaml", "--ckpt_path", "no.ckpt"], ["no checkpoint no.ckpt"]),
        (["fit", "-c", "tiny.yaml", "--optimizer", "torch.optim.Adam"], ["--optimizer"]),
        (["fit", "--resume"], ["no run below", "dpinn fit"]),
        (["fit", "--resume", "runs/gone"], ["no checkpoint runs/gone/checkpoints/last.ckpt"]),
        (["evaluate"], ["no run below", "dpinn fit"]),
        (["evaluate", "runs/gone"], ["no checkpoint runs/gone"]),
        (["evaluate", "0" * 32], ["no MLflow run 000", "mlflow.db"]),
        (["reference", "heat"], ["no problem heat", "wave"]),
        (["reference", "my_pde.Mine"], ["Mine has no reference"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_mistake_on_the_command_line_is_named(
    arguments: list[str], fragments: list[str], work: Any
) -> None:
    work.config({"tracking.mlflow": True})
    work.file("my_pde.py", f'{PROBLEM}    def residual(self, u): return {{"pde": u.t}}\n')
    sentence = work(*arguments).sentence
    assert [f for f in fragments if f not in sentence] == [], sentence
    assert work.left == set()


def test_a_yaml_file_that_is_none_is_named(work: Any) -> None:
    work.file("broken.yaml", "problem: [1\nmodel: }")
    assert "config" in work("fit", "--config", "broken.yaml").sentence


@pytest.fixture(scope="module")
def damaged(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    whole = (trained.folder / "checkpoints/last.ckpt").read_bytes()
    folder = tmp_path_factory.mktemp("damaged")
    files = {
        "truncated": whole[: len(whole) // 2],
        "garbage": bytes(range(256)) * 100,
        "empty": b"",
        "bits turned over": whole[:2000] + bytes(b ^ 255 for b in whole[2000:9000]) + whole[9000:],
    }
    for name, content in files.items():
        path = folder / name / "checkpoints/last.ckpt"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        (folder / name / "config.yaml").write_bytes((trained.folder / "config.yaml").read_bytes())
    path = folder / "foreign" / "checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(3)}, path)
    return {p.parent.parent.name: p.parent.parent for p in folder.glob("*/checkpoints/last.ckpt")}


@pytest.mark.parametrize("kind", ["truncated", "garbage", "empty", "bits turned over", "foreign"])
def test_a_damaged_checkpoint_is_named_and_left_as_it_is(
    kind: str, damaged: dict[str, Path], work: Any
) -> None:
    folder = damaged[kind]
    checkpoint = folder / "checkpoints/last.ckpt"
    before = checkpoint.read_bytes()
    expected = "was not written by dpinn" if kind == "foreign" else "is damaged or no checkpoint"
    config = work.config()
    for arguments in (
        ["fit", "--resume", folder],
        ["fit", "--config", config, "--ckpt_path", checkpoint],
        ["evaluate", folder],
        ["evaluate", checkpoint],
    ):
        assert f"{checkpoint} {expected}" in work(*arguments).sentence
    assert work.left == set()
    assert checkpoint.read_bytes() == before


def test_an_unknown_mlflow_run_is_named(trained: Any) -> None:
    assert "has no run 1111" in trained.work("evaluate", "1" * 32).sentence


def test_a_loss_that_overflows_ends_the_run_at_the_step_that_did_it(work: Any) -> None:
    config = work.config({"model.optimizer.init_args.lr": 1.0e6})
    outcome = work("fit", "--config", config)
    assert "is inf at step " in outcome.sentence or "is nan at step " in outcome.sentence
    assert "the loss term '" in outcome.sentence
    assert not list(work.folder.glob("runs/*/checkpoints/*"))


def test_a_gradient_that_is_not_finite_names_its_parameter_and_step(work: Any) -> None:
    # The root of a square is finite where the square is 0, its gradient is not.
    work.file(
        "my_pde.py",
        f"{PROBLEM}    def residual(self, u, t):\n"
        '        return {"pde": u.t + torch.sqrt((u.value - u.value) ** 2)}\n',
    )
    config = work.config({"problem": "my_pde.Mine", "model.optimizer": "torch.optim.SGD"})
    sentence = work("fit", "--config", config).sentence
    assert "the gradient of " in sentence
    assert "is not finite at step 0" in sentence


def test_debug_shows_the_traceback_as_well(work: Any) -> None:
    outcome = work("fit", "--debug", "--config", work.config({"data.batch": 66}))
    assert outcome.returncode == 1
    assert "Traceback (most recent call last)" in outcome.stderr
    assert "DpinnError: batch 66 does not divide" in outcome.stderr.splitlines()[-1]


def test_another_architecture_is_refused_by_name_when_a_run_is_resumed(trained: Any) -> None:
    sentence = trained.work(
        "fit", "--resume", trained.folder, "--model.network.init_args.width", 12
    ).sentence
    assert "size mismatch" in sentence
