"""What variables of a library's functions held is named as theirs: never another step's for this one's."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.session.errors import NotYet, UserError
from tests.support import OpenSession


def train(x: mx.array) -> mx.array:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    opt = optim.Adam(learning_rate=0.1)
    step = nn.value_and_grad(model, lambda model, x: model(x).square().mean())
    for turn in range(2):
        loss, grads = step(model, x * turn)
        opt.update(model, grads)
    return loss


@pytest.fixture(scope="module")
def trained() -> nnrepl.Trace:
    return nnrepl.trace(train, mx.ones((3, 2)))


@pytest.mark.parametrize("name", ["m", "v", "lr", "parameter", "gradient"])
def test_what_an_earlier_update_held_is_not_this_ones(trained: nnrepl.Trace, name: str) -> None:
    """Python would say NameError at the first op of an update: the function that has the variable does not run."""
    session = OpenSession(trained)
    session.run("goto step 2 update")
    said = r"not (made|set) yet in this step.*the last one is step 1's|is not there yet"
    with pytest.raises(NotYet, match=said):
        session.lookup.find(name, session.cursor)
    with pytest.raises(UserError, match=said):
        session.run(f"{name} = {name} * 2")
    assert len(session.changes.timelines) == 1


def test_inside_of_the_update_it_is_what_python_would_say(trained: nnrepl.Trace) -> None:
    session = OpenSession(trained)
    for line in ("goto step 2 update", "step 3"):
        session.run(line)
    op = session.op
    assert op is not None
    lookup = session.lookup
    held = {name: lookup.find(name, session.cursor) for name in ("parameter", "gradient", "m", "lr")}
    assert held["parameter"] is lookup.find("layers.0.weight", session.cursor)
    assert all(value is not None for value in held.values())
    assert len({value.shape for name, value in held.items() if name != "lr" and value is not None}) == 1


def test_a_variable_of_the_librarys_function_that_called_the_programs_is_known_there() -> None:
    """In a layer of the program's own within a `Sequential`: that one's loop has it in `m`."""

    class Doubled(nn.Module):
        def __call__(self, x: mx.array) -> mx.array:
            return x * 2

    session = OpenSession(nnrepl.trace(nn.Sequential(nn.Tanh(), Doubled()), mx.ones((2,))))
    session.run("goto multiply")
    assert "Doubled" in str(session.run("p m"))
