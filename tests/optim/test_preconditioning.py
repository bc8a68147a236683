"""What preconditioners make of other gradients, against their own steps and numpy by hand."""

import copy
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn

from dpinn.optim import SOAP, MuonWithAdamW, ScheduleFree, optimizer_class, precondition

SHAPES = [(5, 4), (3,), (2, 3, 4), (4, 4)]


def randoms(seed, shapes=SHAPES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def trained(make, shapes=SHAPES, dtype=torch.float64):
    """Parameters and optimizer after steps with ever smaller gradients, and one never reached."""
    parameters = [nn.Parameter(start) for start in randoms(0, [*shapes, (2, 2)], dtype)]
    optimizer = make(parameters)
    for step in range(1, 5):
        for parameter, gradient in zip(parameters, randoms(step, shapes, dtype), strict=False):
            parameter.grad = gradient * 0.3**step
        optimizer.step()
    return parameters, optimizer


def others(parameters):
    """Gradients to precondition, small enough for Kron not to clip them."""
    shapes = [parameter.shape for parameter in parameters]
    given = randoms(99, shapes, parameters[0].dtype)
    return {p: 1e-4 * gradient for p, gradient in zip(parameters, given, strict=True)}


def kron(*args, **options):
    module = pytest.importorskip("pytorch_optimizer")
    return module.Kron(*args, **options)


def rewind_adam(group, state, gradient):
    beta2 = group["betas"][1]
    group["betas"] = (0.0, beta2)
    state["step"] -= 1
    # So that the step comes back to the second moment that stands now.
    state["exp_avg_sq"].sub_((1 - beta2) * gradient.square()).div_(beta2)


def rewind_rmsprop(group, state, gradient):
    group["alpha"] = 1.0
    group["momentum"] = 0.0


def rewind_momentum(group, state, gradient):
    group["momentum"] = 0.0


def rewind_muon_with_adamw(group, state, gradient):
    (rewind_momentum if group["rule"] == "muon" else rewind_adam)(group, state, gradient)


def rewind_shampoo(group, state, gradient):
    group["momentum"] = 0.0
    group["update_freq"] = 1000


def rewind_kron(group, state, gradient):
    group["momentum"] = 0.0
    group["pre_conditioner_update_probability"] = 0.0


DECAYED = {"lr": 0.01, "weight_decay": 0.1}
SHORT = {"betas": (0.8, 0.9), **DECAYED}
MATRICES = [(5, 4), (3, 6), (4, 4)]
CASES = {
    "Adam": (partial(torch.optim.Adam, **SHORT), rewind_adam, SHAPES),
    "Adam, amsgrad": (partial(torch.optim.Adam, amsgrad=True, **SHORT), rewind_adam, SHAPES),
    "AdamW": (partial(torch.optim.AdamW, eps=1e-3, **SHORT), rewind_adam, SHAPES),
    "NAdam": (partial(torch.optim.NAdam, **SHORT), rewind_adam, SHAPES),
    "RMSprop": (partial(torch.optim.RMSprop, **DECAYED), rewind_rmsprop, SHAPES),
    "RMSprop, centered": (
        partial(torch.optim.RMSprop, centered=True, momentum=0.9, **DECAYED),
        rewind_rmsprop,
        SHAPES,
    ),
    "SGD": (partial(torch.optim.SGD, **DECAYED), rewind_momentum, SHAPES),
    "SGD, momentum": (partial(torch.optim.SGD, momentum=0.9, **DECAYED), rewind_momentum, SHAPES),
    "Muon": (
        lambda p: torch.optim.Muon(p, **DECAYED),
        rewind_momentum,
        MATRICES,
    ),
    "MuonWithAdamW": (partial(MuonWithAdamW, **SHORT), rewind_muon_with_adamw, SHAPES),
    "Shampoo": (
        lambda p: optimizer_class("Shampoo")(p, momentum=0.5, update_freq=3, **DECAYED),
        rewind_shampoo,
        SHAPES,
    ),
    "Kron": (partial(kron, **DECAYED), rewind_kron, SHAPES),
    "Kron, partly diagonal": (
        partial(kron, memory_save_mode="one_diag", precondition_dtype=torch.float64, **DECAYED),
        rewind_kron,
        SHAPES,
    ),
}
OURS = {
    "SOAP": (partial(SOAP, **SHORT), None, SHAPES),
    "ScheduleFree": (partial(ScheduleFree, base=partial(SOAP, **SHORT)), None, SHAPES),
}
EVERY = {**CASES, **OURS}


@pytest.mark.parametrize("case", CASES)
def test_direction_is_that_of_a_step_with_the_gradient_for_its_first_moment(case):
    make, rewind, shapes = CASES[case]
    parameters, optimizer = trained(make, shapes)
    given = others(parameters[:-1])
    found = precondition(optimizer, given)
    for group in optimizer.param_groups:
        group |= {"lr": 1.0, "weight_decay": 0.0}
        for parameter in given.keys() & set(group["params"]):
            rewind(group, optimizer.state[parameter], given[parameter])
    for parameter, gradient in given.items():
        # From zero, so that the change is not rounded.
        parameter.data.zero_()
        parameter.grad = gradient.clone()
    optimizer.step()
    assert list(found) == list(given)
    for parameter, direction in found.items():
        torch.testing.assert_close(direction, -parameter.detach(), rtol=1e-10, atol=1e-14)


def test_adams_direction_is_its_equation():
    parameters, optimizer = trained(CASES["Adam"][0])
    given = others(parameters)
    found = precondition(optimizer, given)
    for parameter in parameters[:-1]:
        second_moment = optimizer.state[parameter]["exp_avg_sq"].numpy()
        scale = np.sqrt(second_moment / (1 - 0.9**4)) + 1e-8
        expected = given[parameter].numpy() / scale
        np.testing.assert_allclose(found[parameter].numpy(), expected, rtol=1e-13)


def test_amsgrads_maximum_scales_and_not_the_present_moment():
    parameters, optimizer = trained(partial(torch.optim.AdamW, betas=(0.8, 0.5), amsgrad=True))
    parameter = parameters[0]
    state = optimizer.state[parameter]
    assert bool((state["max_exp_avg_sq"] > 2 * state["exp_avg_sq"]).any())
    given = others([parameter])
    expected = given[parameter] / ((state["max_exp_avg_sq"] / (1 - 0.5**4)).sqrt() + 1e-8)
    torch.testing.assert_close(
        precondition(optimizer, given)[parameter], expected, rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("case", ["SOAP", "ScheduleFree"])
def test_soaps_direction_is_its_equation(case):
    parameters, optimizer = trained(OURS[case][0])
    given = others(parameters)
    found = precondition(optimizer, given)
    state = getattr(optimizer, "base", optimizer).state_dict()["state"]
    for index, parameter in enumerate(parameters[:-1]):
        entry = {name: np.asarray(value) for name, value in state[index].items()}
        shape = entry["second_moment"].shape
        left = entry["left_basis"]
        right = entry.get("right_basis", np.eye(shape[1]))
        rotated = left.T @ given[parameter].numpy().reshape(shape) @ right
        scaled = rotated / (np.sqrt(entry["second_moment"]) + 1e-8)
        expected = np.sqrt(1 - 0.9 ** entry["step"]) * left @ scaled @ right.T
        np.testing.assert_allclose(
            found[parameter].numpy(), expected.reshape(SHAPES[index]), rtol=1e-10
        )


def test_shampoos_direction_is_the_inverse_roots_of_its_factors():
    make = partial(optimizer_class("Shampoo"), lr=0.01)
    parameters, optimizer = trained(make)
    given = others(parameters)
    found = precondition(optimizer, given)
    for parameter, shape in zip(parameters, SHAPES, strict=False):
        expected = given[parameter].numpy()
        for dimension in range(len(shape)):
            factor = optimizer.state[parameter][f"precond_{dimension}"].numpy()
            values, vectors = np.linalg.eigh(factor)
            root = vectors * values ** (-1 / len(shape)) @ vectors.T
            expected = np.moveaxis(np.tensordot(root, expected, axes=(1, dimension)), 0, dimension)
        np.testing.assert_allclose(found[parameter].numpy(), expected, rtol=1e-9, atol=1e-14)


def test_krons_direction_is_its_factors_twice():
    parameters, optimizer = trained(partial(kron, precondition_dtype=torch.float64))
    matrix = parameters[0]
    given = others([matrix])
    left, right = (factor.numpy() for factor in optimizer.state[matrix]["Q"])
    expected = left.T @ left @ given[matrix].numpy() @ right.T @ right
    found = precondition(optimizer, given)[matrix].numpy()
    assert not np.allclose(expected, given[matrix].numpy(), rtol=0.1, atol=0)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-18)


def test_muons_direction_keeps_singular_vectors_and_forgets_the_length():
    parameters, optimizer = trained(MuonWithAdamW, dtype=torch.float32)
    matrix = parameters[0]
    given = others([matrix])
    found = precondition(optimizer, given)[matrix]
    left, _, right = torch.linalg.svd(given[matrix], full_matrices=False)
    within = left.T @ found @ right.T / (0.2 * 5**0.5)
    values = within.diagonal()
    assert bool(((values > 0.5) & (values < 1.5)).all())
    torch.testing.assert_close(within, values.diag(), rtol=0, atol=0.03)
    doubled = precondition(optimizer, {matrix: 2 * given[matrix]})[matrix]
    assert torch.equal(doubled, found)


def test_sgds_gradients_are_the_same_tensors():
    parameters, optimizer = trained(CASES["SGD, momentum"][0])
    given = others(parameters)
    found = precondition(optimizer, given)
    assert all(found[parameter] is gradient for parameter, gradient in given.items())


def leaves(tree):
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in (key, *leaves(value))]
    if isinstance(tree, (list, tuple)):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


def same(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    return type(left) is type(right) and left == right


# Shampoo takes no step in bfloat16, of which torch has no singular value decomposition.
TYPED = [(case, torch.float64) for case in EVERY]
TYPED += [(case, torch.bfloat16) for case in EVERY if case != "Shampoo"]


@pytest.mark.parametrize(("case", "dtype"), TYPED, ids=str)
def test_nothing_changes_and_the_gradients_type_comes_back(case, dtype):
    make, _, shapes = EVERY[case]
    parameters, optimizer = trained(make, shapes, dtype)
    given = others(parameters)
    seen = (optimizer.state_dict(), parameters, [p.grad for p in parameters], list(given.values()))
    known = len(optimizer.state)
    before = copy.deepcopy(seen)
    found = precondition(optimizer, given)
    assert {direction.dtype for direction in found.values()} == {dtype}
    after = leaves((optimizer.state_dict(), *seen[1:]))
    assert all(same(one, two) for one, two in zip(leaves(before), after, strict=True))
    assert len(optimizer.state) == known


@pytest.mark.parametrize("case", EVERY)
def test_a_parameter_without_a_step_has_its_gradient_back(case):
    make, _, shapes = EVERY[case]
    parameters, optimizer = trained(make, shapes)
    given = others(parameters)
    found = precondition(optimizer, given)
    assert found[parameters[-1]] is given[parameters[-1]]
    fresh = [nn.Parameter(start) for start in randoms(0, shapes)]
    given = others(fresh)
    found = precondition(make(fresh), given)
    assert all(found[parameter] is gradient for parameter, gradient in given.items())


def test_each_group_has_its_own_options():
    first, second = (nn.Parameter(start) for start in randoms(0, [(3,), (3,)]))
    optimizer = torch.optim.Adam([{"params": [first]}, {"params": [second], "eps": 1.0}])
    first.grad = second.grad = torch.ones(3, dtype=torch.float64)
    optimizer.step()
    ones = torch.ones(3, dtype=torch.float64)
    found = precondition(optimizer, {second: ones, first: ones})
    assert list(found) == [second, first]
    torch.testing.assert_close(found[second], ones / 2)
    torch.testing.assert_close(found[first], ones)


def test_a_loaded_optimizer_preconditions_as_the_saved_one():
    for case in ("Adam, amsgrad", "MuonWithAdamW", "Shampoo", "Kron", "ScheduleFree"):
        make = EVERY[case][0]
        parameters, optimizer = trained(make)
        copies = [nn.Parameter(p.detach().clone()) for p in parameters]
        loaded = make(copies)
        loaded.load_state_dict(optimizer.state_dict())
        expected = precondition(optimizer, others(parameters)).values()
        found = precondition(loaded, others(copies)).values()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=0, msg=case)


class Adam(torch.optim.Adam):
    """Scales otherwise, for all that is known."""


class OtherSOAP(SOAP):
    pass


UNKNOWN = {
    "RAdam": torch.optim.RAdam,
    "Adadelta": torch.optim.Adadelta,
    "LBFGS": torch.optim.LBFGS,
    "Yogi": optimizer_class("Yogi"),
    "a class of a known one's name": Adam,
    "a subclass of SOAP": OtherSOAP,
    "ScheduleFree around an unknown one": partial(ScheduleFree, base=torch.optim.Adadelta),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_optimizer_that_is_not_known_gives_none(case):
    parameters = [nn.Parameter(start) for start in randoms(0)]
    assert precondition(UNKNOWN[case](parameters), others(parameters)) is None


@pytest.mark.parametrize("make", [torch.optim.SGD, SOAP, torch.optim.Adadelta])
def test_a_gradient_of_a_stranger_is_an_error(make):
    parameters = [nn.Parameter(start) for start in randoms(0)]
    with pytest.raises(ValueError, match=r"1 tensors .* shape \(3,\)"):
        precondition(make(parameters[2:]), others(parameters[1:]))


def test_other_packages_are_not_imported():
    program = (
        "import sys, dpinn.optim; "
        "assert not {'torch_optimizer', 'pytorch_optimizer'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def preconditioned(sharded):
    group = dist.group.WORLD if sharded else None
    make = partial(SOAP, process_group=group)
    parameters, optimizer = trained(make, [(16, 16), (16,), (16, 16), (3, 16)], torch.float32)
    # Some of them, in an order of their own.
    given = others(parameters)
    given = {p: given[p] for p in (parameters[4], parameters[2], parameters[0], parameters[1])}
    return list(precondition(optimizer, given).values())


def test_sharded_soap_preconditions_bitwise_as_one_process(on_ranks):
    expected = preconditioned(False)
    for found in on_ranks(2, preconditioned, True):
        assert all(map(torch.equal, found, expected))
