"""The jet: a truncated Taylor expansion that flows through an ordinary `nn.Module`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dpinn.jet.plan import DerivativePlan


class NoJetRuleError(Exception):
    """A torch function that has no Taylor rule was applied to a jet."""

    def __init__(self, operation: str):
        super().__init__(f"no Taylor rule for {operation}")
        self.operation = operation


RULES: dict[Callable[..., Any] | str, Callable[..., Any]] = {}
"""Torch function -> its rule on jets; filled by `dpinn.jet.rules`.

Reflected operators stand by name: eagerly ``jet - w`` goes through the jet's own operator, but
the compiler's tracer turns it into ``Tensor.__rsub__(w, jet)`` with a function object that is
not the one that `Tensor` holds; ``w ** jet`` it turns into Python's own ``pow``.
"""


def _no_rule(operation: str) -> Callable[..., Any]:
    """An operator that is refused by name, so that Python does not find an answer of its own."""

    def refuse(*operands: Any) -> Any:
        raise NoJetRuleError(operation)

    return refuse


class Jet:
    """Values and derivatives of a function at a batch of points, one channel a derivative.

    A plain class, no tensor: torch functions reach it through ``__torch_function__`` and find
    their rule in `RULES`. It behaves as a tensor of shape ``batch_shape x features``; the
    channels come before that.

    Args:
        channels: ``C x batch_shape x features``; channel k is the Taylor coefficient
            (derivative / α!) of ``plan.partials[k]``, then the collapsed Laplacian if any.
        plan: which derivative each channel is.
    """

    def __init__(self, channels: Tensor, plan: DerivativePlan):
        self.channels = channels
        self.plan = plan

    @classmethod
    def seed(cls, points: Tensor, plan: DerivativePlan) -> Jet:
        """Expand the identity at `points` (``N x coordinates``): value, and ones at order one."""
        count, dimensions = points.shape
        seeds = []
        for index in plan.partials[1:]:
            unit = [float(k) if sum(index) == 1 else 0.0 for k in index]
            seeds.append(unit)
        if plan.laplacian:
            seeds.append([0.0] * dimensions)
        if not seeds:
            return cls(points[None], plan)
        constant = torch.tensor(seeds, dtype=points.dtype, device=points.device)
        rest = constant[:, None, :].expand(-1, count, -1)
        return cls(torch.cat([points[None], rest]), plan)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Look the function up in `RULES`."""
        # By name first: the tracer takes its own ``pow`` for another object than `Tensor`'s,
        # and then fails on its own guard that there is no rule for it.
        rule = RULES.get(function.__name__) or RULES.get(function)
        if rule is None:
            raise NoJetRuleError(function.__name__)
        return rule(*args, **(kwargs or {}))

    @property
    def shape(self) -> torch.Size:
        """Shape without the channels."""
        return self.channels.shape[1:]

    @property
    def ndim(self) -> int:
        """Number of dimensions without the channels."""
        return self.channels.ndim - 1

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.channels.dtype

    @property
    def device(self) -> torch.device:
        """Where the channels lie."""
        return self.channels.device

    def dim(self) -> int:
        """Number of dimensions without the channels."""
        return self.ndim

    def size(self, dim: int | None = None) -> torch.Size | int:
        """Shape, or one entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Jet(shape={tuple(self.shape)}, derivatives=[{self.plan}])"

    def __getattr__(self, name: str) -> Any:
        """Tensor methods (``h.tanh()``, ``h.unsqueeze(-1)``) take the rule of their function."""
        method = None if name.startswith("_") else getattr(Tensor, name, None)
        rule = RULES.get(method) if method is not None else None
        if rule is None:
            if method is None or not callable(method):
                raise AttributeError(f"a Jet has no attribute {name!r}")
            raise NoJetRuleError(f"Tensor.{name}")

        def bound(*args: Any, **kwargs: Any) -> Any:
            return rule(self, *args, **kwargs)

        return bound

    def __iter__(self) -> Iterator[Jet]:
        return iter(RULES[torch.unbind](self))

    def __getitem__(self, key: Any) -> Jet:
        return RULES[Tensor.__getitem__](self, key)

    def __add__(self, other: Any) -> Jet:
        return RULES[torch.add](self, other)

    def __radd__(self, other: Any) -> Jet:
        return RULES[torch.add](self, other)

    def __sub__(self, other: Any) -> Jet:
        return RULES[torch.sub](self, other)

    def __rsub__(self, other: Any) -> Jet:
        return RULES[torch.sub](other, self)

    def __mul__(self, other: Any) -> Jet:
        return RULES[torch.mul](self, other)

    def __rmul__(self, other: Any) -> Jet:
        return RULES[torch.mul](self, other)

    def __truediv__(self, other: Any) -> Jet:
        return RULES[torch.div](self, other)

    def __rtruediv__(self, other: Any) -> Jet:
        return RULES[torch.div](other, self)

    def __matmul__(self, other: Tensor) -> Jet:
        return RULES[torch.matmul](self, other)

    def __pow__(self, exponent: float) -> Jet:
        return RULES[torch.pow](self, exponent)

    def __rpow__(self, base: float) -> Jet:
        return RULES[torch.pow](base, self)

    def __neg__(self) -> Jet:
        return RULES[torch.neg](self)

    __abs__ = _no_rule("abs")
    __lt__, __le__, __gt__, __ge__ = map(_no_rule, ("lt", "le", "gt", "ge"))
    __eq__, __ne__ = map(_no_rule, ("eq", "ne"))
    __hash__ = object.__hash__
