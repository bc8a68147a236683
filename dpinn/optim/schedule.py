"""Learning-rate schedules as pure functions of the step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupExponentialDecay:
    """Linear warmup to 1, then exponential decay.

    ``factor(step)`` multiplies the base learning rate::

        step / warmup_steps                                  for step < warmup_steps
        decay_rate ^ ((step - warmup_steps) / decay_steps)   from there on

    With ``staircase`` the exponent is rounded down: the rate falls once every ``decay_steps``.
    Step 0 of a warmup has factor 0, as in the published PINN configurations (arXiv 2502.00604).
    """

    warmup_steps: int = 0
    decay_rate: float = 0.9
    decay_steps: int = 2000
    staircase: bool = False

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must not be negative")
        if not 0 < self.decay_rate <= 1:
            raise ValueError(f"decay_rate is {self.decay_rate}; it must be above 0 and at most 1")
        if self.decay_steps < 1:
            raise ValueError(f"decay_steps is {self.decay_steps}; it must be at least 1")

    def factor(self, step: int) -> float:
        """What the base learning rate is multiplied with at ``step``, counted from 0."""
        if step < 0:
            raise ValueError(f"step is {step}; steps are counted from 0")
        if step < self.warmup_steps:
            return step / self.warmup_steps
        elapsed = step - self.warmup_steps
        exponent = elapsed // self.decay_steps if self.staircase else elapsed / self.decay_steps
        return float(self.decay_rate**exponent)
