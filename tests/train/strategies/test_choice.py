"""Names and objects of strategies."""

import subprocess
import sys

import pytest
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from dpinn.errors import DpinnError
from dpinn.train.strategies import DeepSpeedStrategy, ReplicatedStrategy, choose_strategy


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_names_of_deepspeeds_stages_are_ours(stage: int) -> None:
    strategy = choose_strategy(f"deepspeed_stage_{stage}", several=True)
    assert type(strategy) is DeepSpeedStrategy
    assert strategy.stage == stage


def test_auto_and_ddp_are_ours_where_there_are_several_ranks() -> None:
    assert choose_strategy("auto", several=False) == "auto"
    assert type(choose_strategy("auto", several=True)) is ReplicatedStrategy
    assert type(choose_strategy("ddp", several=True)) is ReplicatedStrategy


def test_deepspeeds_launcher_trains_through_its_engine_unless_another_is_named() -> None:
    strategy = choose_strategy("auto", several=True, by_deepspeed=True)
    assert type(strategy) is DeepSpeedStrategy
    assert strategy.stage == 0
    assert type(choose_strategy("ddp", several=True, by_deepspeed=True)) is ReplicatedStrategy


def test_our_objects_stay_and_those_that_average_are_refused() -> None:
    for ours in (ReplicatedStrategy(), DeepSpeedStrategy(stage=2), SingleDeviceStrategy()):
        assert choose_strategy(ours, several=True) is ours
    with pytest.raises(DpinnError, match=r"dpinn\.train\.strategies\.ReplicatedStrategy"):
        choose_strategy(DDPStrategy(), several=True)
    for name in ("deepspeed", "deepspeed_stage_3_offload", "fsdp", "ddp_spawn"):
        with pytest.raises(DpinnError, match=f"'{name}'; it must be auto, ddp, deepspeed_stage_0"):
            choose_strategy(name, several=True)


@pytest.mark.slow
def test_deepspeed_is_imported_only_for_its_own_strategy() -> None:
    code = "import dpinn.train.cli, sys; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
