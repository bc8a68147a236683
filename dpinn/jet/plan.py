"""Which derivatives are computed: a value that is built first, printed, and then executed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MultiIndex = tuple[int, ...]
"""How often each coordinate is differentiated; ``(1, 2)`` over ``(t, x)`` is u_txx."""

MAX_ORDER = 4
"""Kuramoto-Sivashinsky needs u_xxxx; the derivative towers of the activations end here."""

LAPLACIAN = "laplacian"
TIME = "t"
RESERVED = ("d", LAPLACIAN, "value")


def parse_derivative(name: str, coordinates: Sequence[str]) -> MultiIndex | None:
    """Read ``"xxt"`` as a multi-index over `coordinates`; None if it is no derivative.

    Only one-letter coordinates can be spelled so; others go through `multi_index`.
    """
    letters = [c for c in coordinates if len(c) == 1]
    if not name or any(letter not in letters for letter in name):
        return None
    return multi_index(name, coordinates)


def multi_index(names: Iterable[str], coordinates: Sequence[str]) -> MultiIndex:
    """Count how often each coordinate stands in `names`, in the order of `coordinates`.

    Raises:
        ValueError: for a name that is no coordinate, or an order above `MAX_ORDER`.
    """
    names = tuple(names)
    unknown = [n for n in names if n not in coordinates]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no coordinate; use one of {', '.join(coordinates)}")
    if len(names) > MAX_ORDER:
        raise ValueError(
            f"the derivative {''.join(names)} has order {len(names)}; "
            f"orders up to {MAX_ORDER} are supported"
        )
    return tuple(names.count(c) for c in coordinates)


@dataclass(frozen=True)
class DerivativePlan:
    """A downward-closed set of partial derivatives, and perhaps a collapsed Laplacian.

    Attributes:
        coordinates: names of the network's inputs, in order.
        partials: multi-indices sorted by order; the first is the value itself. With every
            index all smaller ones are there, which is what Leibniz and Faà di Bruno need.
        laplacian: axes whose second derivatives are summed into one more channel, or ().
        position: channel of each partial derivative.
        factorials: α! for each partial; a channel holds the Taylor coefficient, derivative / α!.
        gradient_channels: channels of the first derivatives along the Laplacian's axes.
        products: Leibniz; channel α of f g is the sum of f_β g_γ over the pairs (β, γ) at α.
        compositions: Faà di Bruno; channel α of f(u) is the sum of c f^(k)(u)/k! Π u_β over
            entries ``(k, c, channels)``: k channels whose multi-indices add up to α, and in how
            many orders they do. The value's own channel has no entry.
    """

    coordinates: tuple[str, ...]
    partials: tuple[MultiIndex, ...]
    laplacian: tuple[int, ...] = ()

    # The tables below follow from the above; made at once, since the compiler's tracer
    # cannot step into a lazily computed property.
    position: dict[MultiIndex, int] = field(init=False, repr=False, compare=False)
    factorials: tuple[int, ...] = field(init=False, repr=False, compare=False)
    gradient_channels: tuple[int, ...] = field(init=False, repr=False, compare=False)
    products: tuple[tuple[tuple[int, int], ...], ...] = field(init=False, repr=False, compare=False)
    compositions: tuple[tuple[tuple[int, int, tuple[int, ...]], ...], ...] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        known = set(self.partials)
        for index in self.partials:
            missing = [s for s in _predecessors(index) if s not in known]
            if missing:
                raise ValueError(
                    f"partials are not downward closed: {index} is there, {missing[0]} is not"
                )
        for axis in self.laplacian:
            if self._unit(axis) not in known:
                raise ValueError("a collapsed Laplacian needs the first derivatives along its axes")
        tables = {
            "position": {index: k for k, index in enumerate(self.partials)},
            "factorials": tuple(math.prod(map(math.factorial, i)) for i in self.partials),
        }
        for name, table in tables.items():
            object.__setattr__(self, name, table)
        object.__setattr__(self, "gradient_channels", self._gradient_channels())
        object.__setattr__(self, "products", self._products())
        object.__setattr__(self, "compositions", self._compositions())

    @classmethod
    def build(
        cls, coordinates: Sequence[str], wanted: Iterable[MultiIndex], laplacian: bool = False
    ) -> DerivativePlan:
        """Close the set `wanted` downwards.

        The Laplacian is over every coordinate but the time ``t``. Where its second
        derivatives are wanted anyway it is their sum and takes no channel of its own.
        """
        coordinates = tuple(coordinates)
        closed = {(0,) * len(coordinates)}
        for index in wanted:
            closed.update(itertools.product(*(range(k + 1) for k in index)))
        axes: tuple[int, ...] = ()
        if laplacian:
            space = tuple(i for i, c in enumerate(coordinates) if c != TIME)
            units = [tuple(int(i == a) for i in range(len(coordinates))) for a in space]
            second = [tuple(2 * k for k in u) for u in units]
            if len(space) == 1 or all(s in closed for s in second):
                closed.update(second)
            else:
                axes = space
            closed.update(units)
        ordered = sorted(closed, key=lambda i: (sum(i), tuple(-k for k in i)))
        return cls(coordinates, tuple(ordered), axes)

    @property
    def channels(self) -> int:
        """Number of stacked channels."""
        return len(self.partials) + bool(self.laplacian)

    @property
    def order(self) -> int:
        """Highest total order in the plan."""
        return max(2 if self.laplacian else 0, *(sum(i) for i in self.partials))

    def _gradient_channels(self) -> tuple[int, ...]:
        return tuple(self.position[self._unit(axis)] for axis in self.laplacian)

    def _products(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        table = []
        for index in self.partials:
            pairs = []
            for beta in itertools.product(*(range(k + 1) for k in index)):
                gamma = tuple(a - b for a, b in zip(index, beta, strict=True))
                pairs.append((self.position[beta], self.position[gamma]))
            table.append(tuple(pairs))
        return tuple(table)

    def _compositions(self) -> tuple[tuple[tuple[int, int, tuple[int, ...]], ...], ...]:
        table: list[tuple[tuple[int, int, tuple[int, ...]], ...]] = [()]
        for index in self.partials[1:]:
            entries = []
            for parts in _multisets(index, [i for i in self.partials[1:] if _below(i, index)]):
                orders = math.factorial(len(parts))
                for part in set(parts):
                    orders //= math.factorial(parts.count(part))
                entries.append((len(parts), orders, tuple(self.position[p] for p in parts)))
            table.append(tuple(entries))
        return tuple(table)

    def _unit(self, axis: int) -> MultiIndex:
        return tuple(int(i == axis) for i in range(len(self.coordinates)))

    def __str__(self) -> str:
        names = [
            "".join(c * k for c, k in zip(self.coordinates, i, strict=True)) for i in self.partials
        ]
        names[0] = "value"
        return ", ".join(names + ([LAPLACIAN] if self.laplacian else []))


def _predecessors(index: MultiIndex) -> list[MultiIndex]:
    return [
        tuple(k - (j == axis) for j, k in enumerate(index))
        for axis in range(len(index))
        if index[axis]
    ]


def _below(small: MultiIndex, large: MultiIndex) -> bool:
    return all(s <= k for s, k in zip(small, large, strict=True))


def _multisets(total: MultiIndex, parts: list[MultiIndex]) -> list[tuple[MultiIndex, ...]]:
    """All multisets of `parts` that add up to `total`."""
    if not any(total):
        return [()]
    found = []
    for k, part in enumerate(parts):
        if _below(part, total):
            rest = tuple(t - p for t, p in zip(total, part, strict=True))
            found += [(part, *more) for more in _multisets(rest, parts[k:])]
    return found
