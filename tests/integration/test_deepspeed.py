"""DeepSpeed's ZeRO trains as one rank does, saves the same file, and goes on bitwise."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip(
        "no DeepSpeed here (pip install -c constraints.txt '.[deepspeed]')", allow_module_level=True
    )

ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1.0e-3}}
UNCLIPPED = (
    *("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1.0e-4"),
    *("--model.clip", "null", "--trainer.max_steps", "10"),
)

CONFIG = {
    "model.optimizer": ADAM,
    "model.clip": 0.5,
    "model.weights": {"class_path": "dpinn.loss.GradientNormWeights", "init_args": {"every": 5}},
    "trainer": {"max_steps": 30, "precision": "64-true", "accelerator": "cpu"},
    # Neither the batch nor its chunks divide into two ranks.
    "data": {"batch": 63, "chunks": 3, "inner_steps": 1, "points": {"initial": 9, "ends": 5}},
    "tracking": {"log_every": 1, "evaluate_every": 15, "checkpoint_every": 10, "mlflow": False},
}

SPY = """
from pathlib import Path
from lightning.pytorch import Callback

class Spy(Callback):
    \"\"\"Notes how many entries of parameters this rank holds between two steps.\"\"\"

    def on_train_batch_end(self, trainer, pl_module, *rest):
        entries = sum(p.numel() for p in pl_module.pinn.parameters())
        Path(f"entries.{trainer.global_rank}").write_text(str(entries))
"""

STAGES = (0, 1, 2, 3)


@dataclass
class Runs:
    """The same training by one strategy, in several ways."""

    whole: Path
    resumed: Path
    from_replicated: Path
    unclipped: Path
    entries: list[int]


def strategy(stage: int) -> tuple[str, ...]:
    """Options; the parameters of these small networks are partitioned as large ones are."""
    if stage < 3:
        return ("--trainer.strategy", f"deepspeed_stage_{stage}")
    key = "--trainer.strategy"
    zero = '{"stage3_param_persistence_threshold": 0}'
    return (
        *(f"{key}.class_path", "dpinn.train.strategies.DeepSpeedStrategy"),
        *(f"{key}.init_args.stage", "3", f"{key}.init_args.zero", zero),
    )


def rows_of(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "memory/"))} for r in rows]


def checkpoint_of(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints/last.ckpt")


def only_run(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for k, value in enumerate(tree):
            yield from leaves(value, f"{path}/{k}")
    else:
        yield path, tree


def assert_same(a: Path, b: Path, tolerance: float) -> None:
    """Two runs have the same metrics, parameters and optimizer state; 0 means bitwise."""
    for x, y in zip(rows_of(a), rows_of(b), strict=True):
        assert x.keys() == y.keys()
        for name in x:
            assert y[name] == pytest.approx(x[name], rel=tolerance, abs=tolerance), (name, x)
    saved = [checkpoint_of(run) for run in (a, b)]
    for part in ("global_step", "state_dict", "solution", "optimizer_states"):
        first, second = (dict(leaves(checkpoint[part])) for checkpoint in saved)
        assert first.keys() == second.keys()
        for name, value in first.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(second[name], value, rtol=tolerance, atol=tolerance)
            else:
                assert second[name] == value, (part, name)


@pytest.fixture(scope="module")
def deepspeed_workplace(
    workplace: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory, environment: Any
) -> Iterator[Callable[[], Any]]:
    """Makes folders whose processes have DeepSpeed imported already."""
    preload = {"PRELOAD": "deepspeed", "DS_ACCELERATOR": "cpu"}
    server_class = type(workplace().server)
    server = server_class(tmp_path_factory.mktemp("deepspeed"), environment | preload)

    def make() -> Any:
        work = workplace()
        work.server = server
        work.config(CONFIG)
        work.file("spy.py", SPY)
        return work

    yield make
    server.stop()


def fit(output: str, *options: Any, ranks: int = 2) -> tuple[str, ...]:
    command = ("fit", "--config", "tiny.yaml", "--tracking.output", output)
    return (*command, "--trainer.devices", str(ranks), *map(str, options))


@pytest.fixture(scope="module")
def one_rank(deepspeed_workplace: Callable[[], Any]) -> Path:
    work = deepspeed_workplace()
    outcome = work(*fit("one", ranks=1))
    assert outcome.returncode == 0, outcome.stderr
    return only_run(work.folder / "one")


@pytest.fixture(scope="module")
def unclipped_on_one_rank(deepspeed_workplace: Callable[[], Any]) -> Path:
    work = deepspeed_workplace()
    outcome = work(*fit("one", *UNCLIPPED, ranks=1))
    assert outcome.returncode == 0, outcome.stderr
    return only_run(work.folder / "one")


@pytest.fixture(scope="module")
def replicated_half(deepspeed_workplace: Callable[[], Any]) -> Path:
    """A checkpoint of ReplicatedStrategy at step 15, from three ranks."""
    work = deepspeed_workplace()
    for outcome in work.ranks(3, *fit("half", "--trainer.max_steps", 15, ranks=3)):
        assert outcome.returncode == 0, outcome.stderr
    return only_run(work.folder / "half")


@pytest.fixture(scope="module", params=STAGES, ids="zero_{}".format)
def runs(
    request: pytest.FixtureRequest, deepspeed_workplace: Callable[[], Any], replicated_half: Path
) -> Runs:
    work = deepspeed_workplace()
    chosen = strategy(request.param)
    other = work.folder / "other" / replicated_half.name
    shutil.copytree(replicated_half, other)
    outcomes = work.ranks(
        2,
        *(*fit("whole", *chosen, "--trainer.callbacks", "spy.Spy"), "&&"),
        *(*fit("unclipped", *chosen, *UNCLIPPED), "&&"),
        *("fit", "--resume", other, *chosen, "--trainer.devices", 2, "--trainer.max_steps", 30),
        *("&&", *fit("runs", *chosen, "--trainer.max_steps", 15), "&&"),
        *("fit", "--resume", "--trainer.max_steps", 30),
    )
    for outcome in outcomes:
        assert outcome.returncode == 0, outcome.stderr
        assert outcome.stderr == ""
    return Runs(
        whole=only_run(work.folder / "whole"),
        resumed=work.run_folder(),
        from_replicated=other,
        unclipped=only_run(work.folder / "unclipped"),
        entries=[int((work.folder / f"entries.{k}").read_text()) for k in range(2)],
    )


def test_the_trajectory_is_that_of_one_rank(runs: Runs, one_rank: Path) -> None:
    assert_same(one_rank, runs.whole, 1e-10)


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(runs: Runs) -> None:
    assert_same(runs.whole, runs.resumed, 0)


def test_a_checkpoint_of_another_strategy_and_number_of_ranks_goes_on(
    runs: Runs, one_rank: Path
) -> None:
    assert_same(one_rank, runs.from_replicated, 1e-10)


@pytest.mark.parametrize("runs", [3], indirect=True, ids="zero_{}".format)
def test_its_checkpoint_goes_on_on_one_rank_without_deepspeed(
    runs: Runs, deepspeed_workplace: Callable[[], Any], one_rank: Path
) -> None:
    work = deepspeed_workplace()
    more = ("--trainer.strategy", "auto", "--trainer.devices", 1, "--trainer.max_steps", 40)
    copies = []
    for name, run in (("theirs", runs.whole), ("ours", one_rank)):
        copies.append(work.folder / name)
        shutil.copytree(run, copies[-1])
        outcome = work("fit", "--resume", copies[-1], *more)
        assert outcome.returncode == 0, outcome.stderr
    assert_same(*copies, 1e-10)


def test_only_stage_3_keeps_the_parameters_in_parts(runs: Runs, request: Any) -> None:
    trained = checkpoint_of(runs.whole)["optimizer_states"][0]["state"].values()
    whole = sum(state["exp_avg"].numel() for state in trained)
    expected = 0 if "zero_3" in request.node.name else whole
    assert runs.entries == [expected, expected]


def test_the_clip_was_at_work(one_rank: Path) -> None:
    norms = [row["gradient/norm"] for row in rows_of(one_rank)]
    assert min(norms) > CONFIG["model.clip"]


def test_without_a_clip_no_gradient_is_clipped(runs: Runs, unclipped_on_one_rank: Path) -> None:
    # DeepSpeed's own default would have clipped them at 1.
    assert min(row["gradient/norm"] for row in rows_of(unclipped_on_one_rank)) > 1.5
    assert_same(unclipped_on_one_rank, runs.unclipped, 1e-10)


def test_lightnings_launcher_starts_it_without_any_chatter(workplace: Callable[[], Any]) -> None:
    work = workplace()
    work.config(CONFIG | {"trainer": {"max_steps": 10, "accelerator": "cpu"}})
    dpinn = Path(sys.executable).with_name("dpinn")
    outcome = work.real(dpinn, *fit("runs", "--trainer.strategy", "deepspeed_stage_3"))
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    assert outcome.stdout.startswith("wave: 10 steps")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_soap_is_refused_before_anything_starts(stage: int, work: Any) -> None:
    config = work.config()
    name = f"deepspeed_stage_{stage}"
    sentence = work("fit", "-c", config, "--trainer.strategy", name).sentence
    assert sentence.startswith(f"{name} hands an optimizer one flat shard of all parameters, and ")
    assert "SOAP needs each as a whole" in sentence
    assert "deepspeed_stage_0" in sentence
    assert work.left == set()


def test_no_gradient_clipping_comes_from_elsewhere(work: Any) -> None:
    config = work.config({"model.optimizer": ADAM})
    sentence = work("fit", "-c", config, "--trainer.gradient_clip_val", "1.0").sentence
    assert "use model.clip" in sentence
    key = "--trainer.strategy"
    theirs = (f"{key}.class_path", "lightning.pytorch.strategies.DeepSpeedStrategy")
    clipping = (f"{key}.init_args.config", '{"gradient_clipping": 0.1}')
    sentence = work("fit", "-c", config, *theirs, *clipping).sentence
    assert "dpinn.train.strategies.DeepSpeedStrategy" in sentence
    ours = (f"{key}.class_path", "dpinn.train.strategies.DeepSpeedStrategy")
    sentence = work("fit", "-c", config, *ours, f"{key}.init_args.zero", '{"stage": 2}').sentence
    assert "DeepSpeedStrategy's zero has 'stage'" in sentence
    assert work.left == set()


def test_a_compiled_loss_with_stage_3_runs_eagerly_and_says_so(
    deepspeed_workplace: Callable[[], Any],
) -> None:
    work = deepspeed_workplace()
    options = ("--model.compile", "on", "--trainer.max_steps", 10)
    outcomes = work.ranks(2, *fit("runs", *strategy(3), *options))
    assert [outcome.returncode for outcome in outcomes] == [0, 0]
    assert "the loss runs eagerly" in outcomes[0].stderr
    assert checkpoint_of(work.run_folder())["compiled"] is False
