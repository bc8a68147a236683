import torch

from dpinn.optim.slab import merge, start_slab
from dpinn.optim.units import unit_of


def started(positions, shape=(3, 3)):
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for _ in positions]
    for position, parameter in zip(positions, parameters, strict=True):
        parameter.grad = torch.full(shape, 1.0 + position)
    units = [
        unit_of(parameter, f"w{position}", position, precondition_1d=True, max_precond_dim=100)
        for position, parameter in zip(positions, parameters, strict=True)
    ]
    return start_slab(units, parameters, beta=0.9)


def test_merged_slabs_do_not_depend_on_the_order_in_which_they_arose():
    (merged,) = merge([started([1, 4]), started([3]), started([0, 2])])
    assert [unit.position for unit in merged.units] == [0, 1, 2, 3, 4]
    (at_once,) = merge([started([0, 1, 2, 3, 4])])
    assert [p.grad[0, 0].item() for p in merged.parameters] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert torch.equal(merged.state["left_factor"], at_once.state["left_factor"])


def test_only_units_of_one_kind_are_merged():
    further = started([1])
    further.step = 5
    other_shape = started([2], shape=(4, 3))
    other_dtype = started([3])
    other_dtype.state["left_factor"] = other_dtype.state["left_factor"].double()
    assert len(merge([started([0]), further, other_shape, other_dtype])) == 4


def test_selected_units_are_copies_and_unit_states_are_views():
    slab = started([0, 1, 2])
    part = slab.select([2, 0])
    assert [unit.key for unit in part.units] == ["w2", "w0"]
    part.state["first_moment"].fill_(7.0)
    assert not slab.state["first_moment"].any()
    slab.unit_state(1)["first_moment"].fill_(3.0)
    assert slab.state["first_moment"][1].eq(3.0).all()
