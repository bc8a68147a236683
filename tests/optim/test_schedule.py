import dataclasses

import pytest

from dpinn.optim import WarmupExponentialDecay


def test_warmup_is_linear_to_one_and_decay_follows():
    schedule = WarmupExponentialDecay(warmup_steps=100, decay_rate=0.9, decay_steps=1000)
    assert [schedule.factor(s) for s in (0, 25, 50, 100)] == [0.0, 0.25, 0.5, 1.0]
    assert schedule.factor(1100) == pytest.approx(0.9)
    assert schedule.factor(600) == pytest.approx(0.9**0.5)
    assert schedule.factor(3100) == pytest.approx(0.9**3)


def test_without_warmup_the_first_factor_is_one():
    assert WarmupExponentialDecay(warmup_steps=0).factor(0) == 1.0


def test_staircase_holds_the_factor_between_multiples():
    schedule = WarmupExponentialDecay(10, 0.5, 100, staircase=True)
    assert schedule.factor(109) == 1.0
    assert schedule.factor(110) == 0.5


def test_it_is_a_value():
    schedule = WarmupExponentialDecay(10, 0.5, 100)
    assert schedule == WarmupExponentialDecay(10, 0.5, 100)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.decay_rate = 0.1


@pytest.mark.parametrize(
    "options",
    [{"warmup_steps": -1}, {"decay_rate": 0.0}, {"decay_rate": 1.1}, {"decay_steps": 0}],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        WarmupExponentialDecay(**options)
    with pytest.raises(ValueError, match="step is -1"):
        WarmupExponentialDecay().factor(-1)
