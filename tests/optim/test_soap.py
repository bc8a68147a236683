"""SOAP as a torch optimizer: slabs, missing gradients, groups, names, state."""

import copy
import io

import pytest
import torch
from torch import nn

from dpinn.optim import SOAP, StateError
from dpinn.optim.eigenbasis import REFRESH_METHODS

# 7 x 7: matrices off the vector boundary, where kernels may round by their place in the slab.
SHAPES = [(7, 7), (7,), (7, 7), (7,), (3, 8), (1,), (2, 3, 4), (), (7, 7), (1, 8)]


def parameters_of(shapes=SHAPES, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def set_gradients(parameters, step, missing=()):
    generator = torch.Generator().manual_seed(1000 + step)
    for index, parameter in enumerate(parameters):
        # A well-conditioned part, or the null space's basis would be left to roundoff.
        gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim == 2 and parameter.shape[0] == parameter.shape[1]:
            gradient = 0.1 * gradient + torch.diag(torch.linspace(3, 1, len(parameter)).double())
        parameter.grad = None if index in missing else gradient.to(parameter.dtype)


def train(optimizer, parameters, steps, missing=lambda step: ()):
    for step in steps:
        set_gradients(parameters, step, missing(step))
        optimizer.step()


def through_file(state_dict):
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def all_equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


SOMETIMES_MISSING = {
    "all gradients": lambda step: (),
    "one missing in turn": lambda step: (step % len(SHAPES),),
    "two alternate": lambda step: (0,) if step % 2 else (2,),
    "one comes late": lambda step: (2, 4) if step < 3 else (),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("saved_after", [0, 1, 4, 5])
@pytest.mark.parametrize("pattern", SOMETIMES_MISSING)
def test_resume_is_bitwise(pattern, saved_after, dtype):
    missing = SOMETIMES_MISSING[pattern]
    parameters = parameters_of(dtype=dtype)
    optimizer = SOAP(parameters, lr=1e-2)
    train(optimizer, parameters, range(saved_after), missing)
    saved = through_file(
        {"optimizer": optimizer.state_dict(), "parameters": [p.detach() for p in parameters]}
    )
    train(optimizer, parameters, range(saved_after, 10), missing)

    resumed = [nn.Parameter(tensor) for tensor in saved["parameters"]]
    other = SOAP(resumed, lr=0.5)
    other.load_state_dict(saved["optimizer"])
    train(other, resumed, range(saved_after, 10), missing)

    assert all_equal(resumed, parameters)
    for key, entry in optimizer.state_dict()["state"].items():
        loaded = other.state_dict()["state"][key]
        assert entry.keys() == loaded.keys()
        assert entry.get("step") == loaded.get("step")
        names = [name for name in entry if name != "step"]
        assert all_equal([entry[name] for name in names], [loaded[name] for name in names])


def test_a_deep_copy_goes_on_like_the_original():
    parameters = parameters_of()
    optimizer = SOAP(parameters, lr=1e-2)
    train(optimizer, parameters, range(4))
    copied_parameters, copied = copy.deepcopy((parameters, optimizer))
    train(optimizer, parameters, range(4, 8))
    train(copied, copied_parameters, range(4, 8))
    assert all_equal(parameters, copied_parameters)


def test_loaded_state_does_not_share_memory_with_the_dictionary():
    parameters = parameters_of([(4, 4), (3, 2)])
    optimizer = SOAP(parameters)
    train(optimizer, parameters, range(3))
    other = SOAP(parameters_of([(4, 4), (3, 2)]))
    other.load_state_dict(optimizer.state_dict())
    saved = copy.deepcopy(optimizer.state_dict())
    train(other, other.param_groups[0]["params"], range(3, 6))
    for key, entry in optimizer.state_dict()["state"].items():
        assert torch.equal(entry["first_moment"], saved["state"][key]["first_moment"])


def test_a_refresh_on_a_stream_of_its_own_has_ended_before_a_load_takes_its_memory(monkeypatch):
    parameters = parameters_of()
    optimizer = SOAP(parameters, overlap=True)
    train(optimizer, parameters, range(3))
    saved, before = through_file(optimizer.state_dict()), optimizer._shards
    still_there = []
    monkeypatch.setattr(
        optimizer._streams, "wait", lambda: still_there.append(optimizer._shards is before)
    )
    optimizer.load_state_dict(saved)
    assert still_there == [True]


def test_slabs_give_what_one_parameter_at_a_time_gives():
    together = parameters_of([(6, 6)] * 4)
    train(SOAP(together, lr=1e-2), together, range(20))
    for index in range(4):
        alone = parameters_of([(6, 6)] * 4)
        optimizer = SOAP([alone[index]], lr=1e-2)
        train(optimizer, alone, range(20))
        # Matrix kernels may round otherwise in another batch.
        torch.testing.assert_close(alone[index], together[index], rtol=0, atol=1e-13)


def test_the_order_of_parameters_does_not_matter():
    shapes = [(6, 6), (5, 5), (6, 6), (6, 6)]
    forward, backward = parameters_of(shapes), parameters_of(shapes)
    train(SOAP(forward, lr=1e-2), forward, range(20))
    train(SOAP(backward[::-1], lr=1e-2), backward, range(20))
    for one, other in zip(forward, backward, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_first_gradient_moves_nothing():
    parameters = parameters_of()
    before = [p.detach().clone() for p in parameters]
    optimizer = SOAP(parameters, weight_decay=0.1)
    train(optimizer, parameters, range(1))
    assert all_equal(parameters, before)
    assert {entry["step"] for entry in optimizer.state_dict()["state"].values()} == {0}


def test_a_parameter_without_gradient_is_untouched_and_its_count_stands():
    parameters = parameters_of([(6, 6)] * 3)
    optimizer = SOAP(parameters, lr=1e-2, weight_decay=0.1)
    train(optimizer, parameters, range(4))
    before = parameters[1].detach().clone()
    state = copy.deepcopy(optimizer.state_dict()["state"][1])
    train(optimizer, parameters, range(4, 7), missing=lambda step: (1,))
    after = optimizer.state_dict()["state"]
    assert torch.equal(parameters[1], before)
    assert after[1]["step"] == state["step"] == 3
    assert all(torch.equal(after[1][name], state[name]) for name in state if name != "step")
    assert after[0]["step"] == 6


def test_missing_gradients_leave_the_others_as_if_alone():
    parameters = parameters_of([(6, 6)] * 3)
    train(SOAP(parameters, lr=1e-2), parameters, range(12), lambda step: (step % 3,))
    alone = parameters_of([(6, 6)] * 3)
    for index in range(3):
        optimizer = SOAP([alone[index]], lr=1e-2)
        train(optimizer, alone, range(12), lambda step: (step % 3,))
        torch.testing.assert_close(alone[index], parameters[index], rtol=0, atol=1e-13)


def test_frozen_parameters_hold_no_state():
    parameters = parameters_of([(6, 6)] * 2)
    parameters[0].requires_grad_(False)
    optimizer = SOAP(parameters)
    before = parameters[0].clone()
    for _ in range(3):
        optimizer.zero_grad()
        (parameters[0] @ parameters[1]).square().sum().backward()
        optimizer.step()
    state = optimizer.state_dict()["state"]
    assert torch.equal(parameters[0], before)
    assert state[0] == {}
    assert state[1]["step"] == 2


def test_non_contiguous_gradients_and_parameters():
    base = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain, turned = nn.Parameter(base.clone()), nn.Parameter(base.T.contiguous().T)
    optimizers = SOAP([plain], lr=1e-2), SOAP([turned], lr=1e-2)
    for step in range(5):
        set_gradients([plain], step)
        turned.grad = plain.grad.T.contiguous().T
        for optimizer in optimizers:
            optimizer.step()
    assert not turned.is_contiguous()
    assert torch.equal(plain, turned)


def test_groups_have_their_own_options():
    parameters = parameters_of([(6, 6), (6, 6)])
    optimizer = SOAP(
        [{"params": [parameters[0]], "lr": 0.0}, {"params": [parameters[1]], "refresh": "eigh"}],
        lr=1e-2,
    )
    before = [p.detach().clone() for p in parameters]
    train(optimizer, parameters, range(4))
    assert torch.equal(parameters[0], before[0])
    assert not torch.equal(parameters[1], before[1])
    optimizer.add_param_group({"params": parameters_of([(2, 2)], seed=9), "lr": 1.0})
    assert optimizer.param_groups[2]["lr"] == 1.0


def test_setting_a_groups_learning_rate_takes_effect():
    parameters = parameters_of([(6, 6)])
    optimizer = SOAP(parameters, lr=1e-2)
    train(optimizer, parameters, range(3))
    before = parameters[0].detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    train(optimizer, parameters, range(3, 5))
    assert torch.equal(parameters[0], before)


def test_closure_is_evaluated_with_gradients_and_its_loss_returned():
    parameter = nn.Parameter(torch.eye(3, dtype=torch.float64))
    optimizer = SOAP([parameter], lr=1e-2)

    def closure():
        optimizer.zero_grad()
        loss = (parameter - 2).square().sum()
        loss.backward()
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(20)]
    assert losses[0] == losses[1] == 27.0
    assert losses[-1] < losses[1]


def test_bfloat16_parameters_keep_float32_state():
    parameters = parameters_of([(6, 6), (4,)], dtype=torch.bfloat16)
    optimizer = SOAP(parameters, lr=1e-1)
    before = [p.detach().clone() for p in parameters]
    train(optimizer, parameters, range(3))
    state = optimizer.state_dict()["state"]
    assert {t.dtype for t in state[0].values() if isinstance(t, torch.Tensor)} == {torch.float32}
    assert not torch.equal(parameters[0], before[0])
    assert parameters[0].dtype == torch.bfloat16


def test_named_parameters_key_the_state_by_name_in_any_order():
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    other = copy.deepcopy(network)
    optimizer = SOAP(network.named_parameters(), lr=1e-2)
    for step in range(4):
        set_gradients(list(network.parameters()), step)
        optimizer.step()
    saved = through_file(optimizer.state_dict())
    assert list(saved["state"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]

    other.load_state_dict(network.state_dict())
    reordered = SOAP(reversed(list(other.named_parameters())))
    reordered.load_state_dict(saved)
    for step in range(4, 8):
        for module, each in ((network, optimizer), (other, reordered)):
            set_gradients(list(module.parameters()), step)
            each.step()
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-10)


def test_float64_factors_survive_loading_beside_float32_parameters():
    parameters = parameters_of([(6, 6), (6, 6), (4,)], dtype=torch.float32)
    optimizer = SOAP(parameters)
    train(optimizer, parameters, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    for entry in saved["state"].values():
        for name in ("left_factor", "right_factor"):
            if name in entry:
                entry[name] = entry[name].double() + 1e-12
    other = SOAP(parameters)
    other.load_state_dict(saved)
    for key, entry in other.state_dict()["state"].items():
        assert torch.equal(entry["left_factor"], saved["state"][key]["left_factor"])
    train(other, parameters, range(3, 6))
    state = other.state_dict()["state"][0]
    assert state["left_factor"].dtype == torch.float64
    assert state["left_basis"].dtype == state["first_moment"].dtype == torch.float32


def _drop_parameter(saved):
    del saved["state"][0]


def _drop_tensor(saved):
    del saved["state"][0]["left_basis"]


def _other_shape(saved):
    saved["state"][0]["left_factor"] = torch.zeros(3, 3)


def _other_groups(saved):
    saved["param_groups"] *= 2


def _other_parameters(saved):
    saved["param_groups"][0]["params"] = ["a", "b"]


def _no_betas(saved):
    del saved["param_groups"][0]["betas"]


def _no_state(saved):
    del saved["state"]


def _mixed_moments(saved):
    saved["state"][0]["first_moment"] = saved["state"][0]["first_moment"].float()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_drop_parameter, "missing 0"),
        (_drop_tensor, "left_basis"),
        (_other_shape, r"\(3, 3\)"),
        (_other_groups, "2 parameter groups"),
        (_other_parameters, "unexpected 'a', 'b'"),
        (_no_betas, "betas"),
        (_no_state, "missing 'state'"),
        (_mixed_moments, "mixes"),
    ],
)
def test_a_wrong_state_is_refused_in_one_sentence_and_changes_nothing(spoil, named):
    parameters = parameters_of([(6, 6), (4,)])
    optimizer = SOAP(parameters)
    train(optimizer, parameters, range(3))
    before = copy.deepcopy(optimizer.state_dict())
    spoiled = copy.deepcopy(before)
    spoiled["param_groups"][0]["lr"] = 7.0
    spoil(spoiled)
    with pytest.raises(StateError, match=named):
        optimizer.load_state_dict(spoiled)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert torch.equal(
        optimizer.state_dict()["state"][0]["first_moment"], before["state"][0]["first_moment"]
    )


def test_state_holds_only_tensors_and_plain_types():
    parameters = parameters_of()
    optimizer = SOAP(parameters)
    train(optimizer, parameters, range(3))
    for entry in optimizer.state_dict()["state"].values():
        assert type(entry["step"]) is int
        assert {type(v) for name, v in entry.items() if name != "step"} == {torch.Tensor}


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"eps": 0.0},
        {"weight_decay": -1.0},
        {"precondition_frequency": 0},
        {"precondition_frequency": 1.5},
        {"max_precond_dim": 0},
        {"shampoo_beta": 1.0},
        {"refresh": "svd"},
    ],
    ids=str,
)
def test_hyperparameters_out_of_range_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        SOAP(parameters_of([(2, 2)]), **options)
    with pytest.raises(ValueError, match=name):
        SOAP([{"params": parameters_of([(2, 2)]), **options}])


def test_complex_parameters_and_repeated_names_are_refused():
    with pytest.raises(ValueError, match="real parameters"):
        SOAP([nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))])
    first, second = parameters_of([(2, 2), (2, 2)])
    with pytest.raises(ValueError, match="unique"):
        SOAP([("w", first), ("w", second)])


def test_precondition_before_the_first_step_is_the_identity():
    parameters = parameters_of([(3, 3), (2,)])
    optimizer = SOAP([("w", parameters[0]), ("b", parameters[1])])
    gradients = {"w": torch.randn(3, 3).double(), "b": torch.randn(2).double()}
    assert torch.equal(optimizer.precondition(gradients)["w"], gradients["w"])
    train(optimizer, parameters, range(1))
    assert torch.equal(optimizer.precondition(gradients)["w"], gradients["w"])
    with pytest.raises(ValueError, match="'v'"):
        optimizer.precondition({"v": gradients["w"]})
    with pytest.raises(ValueError, match="1 gradients"):
        optimizer.precondition([gradients["w"]])


def test_a_scheduler_and_zero_grad_work_as_with_any_optimizer():
    parameters = parameters_of([(3, 3)])
    optimizer = SOAP(parameters, lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    set_gradients(parameters, 0)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    assert parameters[0].grad is None
    assert optimizer.param_groups[0]["lr"] == 0.5
    fresh = SOAP(parameters_of([(3, 3)]))
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["initial_lr"] == 1.0


def test_what_failed_in_a_refresh_is_mended_before_slabs_are_merged(monkeypatch):
    """One parameter lags a step behind; what the other comes to cannot depend on it."""

    def fails(factor, basis):
        refresh = qr(factor, basis)
        return refresh._replace(failed=torch.ones(len(factor), dtype=torch.bool))

    qr = REFRESH_METHODS["qr"]
    monkeypatch.setitem(REFRESH_METHODS, "qr", fails)

    def run(names):
        generator = torch.Generator().manual_seed(0)
        every = {n: torch.nn.Parameter(torch.randn(4, 4, generator=generator)) for n in "ab"}
        optimizer = SOAP([(n, every[n]) for n in names], precondition_frequency=1)
        for step in range(7):
            for name, parameter in every.items():
                gradient = torch.randn(4, 4, generator=generator)
                parameter.grad = None if (name, step) == ("a", 1) else gradient
            optimizer.step()
        return every, optimizer.counters

    both, counters = run("ab")
    alone = {name: run(name) for name in "ab"}
    for name in "ab":
        assert torch.equal(both[name], alone[name][0][name])
    # Known when the last step began: what failed in it is mended in the next.
    assert counters["fallbacks"] == sum(c["fallbacks"] for _, c in alone.values()) > 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_precond_dim", 2), ("precondition_1d", False), ("stagger", True)],
)
def test_options_that_lay_out_the_state_cannot_change_in_mid_run(option, value):
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = SOAP([parameter])
    parameter.grad = torch.ones(3, 3)
    optimizer.step()
    optimizer.param_groups[0][option] = value
    with pytest.raises(ValueError, match=f"SOAP's {option} of group 0 is {value} and was"):
        optimizer.step()


def test_a_refused_group_leaves_the_optimizer_as_it_was():
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = SOAP([("w", parameter)])
    with pytest.raises(ValueError, match="same name"):
        optimizer.add_param_group({"params": [("w", torch.nn.Parameter(torch.ones(2)))]})
    assert len(optimizer.param_groups) == 1
    parameter.grad = torch.ones(3, 3)
    optimizer.step()
