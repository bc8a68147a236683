"""What SOAP keeps, on one process or divided over ranks: how it is saved and loaded."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

from dpinn.optim.agreement import COUNTED
from dpinn.optim.hyperparameters import fixed_options
from dpinn.optim.ranks import Ranks
from dpinn.optim.sharded_checkpoint import load_shards, save_shards
from dpinn.optim.sharding import ShardPlan, phase_of
from dpinn.optim.shards import Placement, Shards
from dpinn.optim.side_streams import SideStreams
from dpinn.optim.state import (
    Key,
    StateError,
    check_state_dict,
    load_groups,
    pack_groups,
    parameter_keys,
    require_same_keys,
)
from dpinn.optim.units import Unit, unit_of

_COUNTERS = ("steps", "skipped_steps", "skipped_in_a_row", *COUNTED)

_OWN = (
    *("_shards", "_streams", "_consolidated", "_steps", "_skipped", "_skipped_in_a_row"),
    *("_counts", "_totals", "_fixed", "nonfinite"),
)


class DividedOptimizer(Optimizer):
    """An optimizer whose state lies in slabs of units, each owned by one rank; see `SOAP`."""

    def _begin(self, streams: SideStreams | None) -> None:
        """Start without state, before there is any group."""
        self._fixed: list[dict[str, Any] | None] = []  # per group, once it has state
        self._shards = Shards()  # all state is there; `Optimizer.state` stays empty
        self._streams = streams
        self._consolidated: dict[str, Any] | None = None
        self._steps = self._skipped = self._skipped_in_a_row = 0
        self._counts: Counter[str] = Counter()  # by this rank
        self._totals: Counter[str] = Counter()  # by all ranks

    def shard_over(self, process_group: dist.ProcessGroup) -> None:
        """Divide the state over a group's ranks, before there is any."""
        if self._shards.owners:
            raise ValueError("SOAP has state already; shard it before the first step or a load")
        self._shards.ranks = Ranks(process_group)

    @property
    def ranks(self) -> Ranks | None:
        """The ranks that the state is divided over; None on a single process."""
        return self._shards.ranks

    @property
    def plan(self) -> ShardPlan | None:
        """Who owns what, of the parameters that have had a gradient; None on a single process."""
        return self._shards.plan

    @property
    def state_bytes(self) -> int:
        """Bytes of state on this rank."""
        return self._shards.state_bytes

    def units(self) -> list[Unit]:
        """What all parameters are to this optimizer, those without state too."""
        return [unit for group in self.param_groups for unit in self._units(group).values()]

    @property
    def counters(self) -> dict[str, int]:
        """Steps, skipped ones among them, and what befell the factors on all ranks.

        Those of other ranks are known as they were when the last step began. ``refreshes`` and
        ``skips`` count factors; ``fallbacks`` those whose basis needed another method, and
        ``kept`` those for which no method gave one.
        """
        totals = self._counts if self.ranks is None else self._totals
        steps = {"steps": self._steps, "skipped_steps": self._skipped}
        return steps | {name: totals[name] for name in COUNTED}

    def state_dict(self) -> dict[str, Any]:
        """Groups and state by parameter key; a parameter without a gradient so far has ``{}``.

        Like every torch optimizer's, the tensors are the live ones. Sharded, the whole state is on
        the rank that `consolidate_state_dict` has brought it to, until the next step. After
        `save_shards` it is only ``{"shards": folder}``, until the next step too.

        Raises:
            StateError: the state is divided over ranks and not here.
        """
        if self._consolidated is not None:
            return self._consolidated
        if self.ranks is None:
            return self._whole(self.owned_state(), self.shared_state())
        raise StateError(
            f"the state is divided over {self.ranks.size} ranks; call consolidate_state_dict() on "
            "all of them, then state_dict() on the first"
        )

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Bring the state of all ranks to the CPU of one of them; all ranks call it."""
        if self.ranks is None:
            return
        shared = self.shared_state()
        entries = self._shards.collect(to)
        if entries is not None:
            keys = list(self._keys().values())
            by_key = {keys[position]: entry for position, entry in entries.items()}
            self._consolidated = self._whole(by_key, shared)

    def save_shards(self, folder: Path) -> None:
        """Write the state into a new folder, each rank what it owns; all ranks call it.

        Raises:
            StateError: it could not be written.
        """
        save_shards(self, folder)
        self._consolidated = {"shards": str(folder)}

    def owned_state(self) -> dict[Key, dict[str, Any]]:
        """By parameter key the step and the live tensors that this rank owns."""
        self.settle()
        return {unit.key: entry for unit, entry in self._shards.entries().items()}

    def shared_state(self) -> dict[str, Any]:
        """What is alike on all ranks: ``param_groups`` and ``counters``; all ranks call it."""
        self.settle()
        counts = [self._counts[name] for name in COUNTED]
        if self.ranks is not None:
            device = next(iter(self._keys())).device
            counts = self.ranks.sum(torch.tensor(counts, device=device)).tolist()
        steps = (self._steps, self._skipped, self._skipped_in_a_row)
        return {
            "param_groups": pack_groups(self.param_groups),
            "counters": dict(zip(_COUNTERS, (*steps, *counts), strict=True)),
        }

    def _whole(
        self, entries: Mapping[Key, dict[str, Any]], shared: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"state": {key: entries.get(key, {}) for key in self._keys().values()}, **shared}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved state whole, in the dtypes in which it was saved.

        Sharded, every rank gives the whole state and keeps what it owns; how many ranks it was
        saved from does not matter. ``{"shards": folder}`` stands for what `save_shards` wrote.

        Raises:
            StateError: parameters, shapes or options differ; nothing has been changed then.
        """
        if set(state_dict) == {"shards"}:
            load_shards(self, Path(state_dict["shards"]))
            return
        check_state_dict(state_dict, self.param_groups, ("state", "param_groups", "counters"))
        saved_groups, saved_state = state_dict["param_groups"], state_dict["state"]
        require_same_keys("parameters", saved_state, list(self._keys().values()))
        present = {key for key, entry in saved_state.items() if entry}
        self.adopt(
            saved_groups, state_dict["counters"], present, lambda unit: saved_state[unit.key]
        )

    def adopt(
        self,
        saved_groups: Sequence[Mapping[str, Any]],
        counters: Mapping[str, int],
        present: Collection[Key],
        entry_of: Callable[[Unit], Mapping[str, Any]],
    ) -> None:
        """Take over a saved state of which only this rank's share is asked for.

        Args:
            saved_groups: `param_groups` of a state dictionary.
            counters: `counters` of a state dictionary.
            present: keys of the parameters that have state.
            entry_of: a unit's step and tensors.
        """
        require_same_keys("counters", counters, _COUNTERS)
        placed: dict[Tensor, Placement] = {}
        for index, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            units = self._units({**saved, "params": group["params"]})
            placed |= {p: Placement(index, u) for p, u in units.items() if u.key in present}
        frequency = saved_groups[0]["precondition_frequency"]
        if self._streams is not None:
            self._streams.wait()  # at the old state, whose memory is given back
        self._shards = self._shards.adopted(placed, frequency, entry_of)
        load_groups(saved_groups, self.param_groups)
        self._fixed = [None] * len(self.param_groups)
        self._fix_options(index for index, _ in placed.values())
        self._steps, self._skipped = counters["steps"], counters["skipped_steps"]
        self._skipped_in_a_row = counters["skipped_in_a_row"]
        self._totals = Counter({name: counters[name] for name in COUNTED})
        # Of the sum over the ranks the first one carries on.
        self._counts = Counter(self._totals) if self._shards.rank == 0 else Counter()
        self._consolidated = None

    def __getstate__(self) -> dict[str, Any]:
        if self.ranks is not None:
            raise StateError("a sharded SOAP cannot be copied or pickled; use its state_dict()")
        self.settle()
        return {**super().__getstate__(), **{name: getattr(self, name) for name in _OWN}}

    def settle(self) -> None:
        """Wait for the last refresh, and mend what failed in it."""
        if self._streams is not None:
            self._streams.wait()
        self._shards.settle(self._counts)

    def _fix_options(self, groups: Iterable[int]) -> None:
        """Note what these groups' state has been laid out by."""
        for index in groups:
            self._fixed[index] = fixed_options(self.param_groups[index])

    def _require_fixed_options(self) -> None:
        for index, (group, before) in enumerate(zip(self.param_groups, self._fixed, strict=True)):
            if before is not None and before != (now := fixed_options(group)):
                name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
                raise ValueError(
                    f"SOAP's {name} of group {index} is {group[name]} and was {before.get(name)} "
                    "when its state was laid out; it cannot change any more"
                )

    @property
    def _frequency(self) -> int:
        return int(self.param_groups[0]["precondition_frequency"])

    def _keys(self) -> dict[Tensor, Key]:
        return parameter_keys(self.param_groups)

    def _units(self, group: Mapping[str, Any]) -> dict[Tensor, Unit]:
        """The units of a group's parameters under that group's options."""
        keys = self._keys()
        positions = {parameter: position for position, parameter in enumerate(keys)}
        units = [
            unit_of(
                parameter,
                keys[parameter],
                positions[parameter],
                precondition_1d=group["precondition_1d"],
                max_precond_dim=group["max_precond_dim"],
            )
            for parameter in group["params"]
        ]
        if group["stagger"]:
            phases = phase_of(units, group["precondition_frequency"])
            units = [replace(u, phase=phase) for u, phase in zip(units, phases, strict=True)]
        return dict(zip(group["params"], units, strict=True))
