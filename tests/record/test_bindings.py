"""What the program's variables held is a fact of the tape: recorded by identity, never guessed from the source."""

from __future__ import annotations

import gc
import re
import sys
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.record.containers import is_data
from nnrepl.record.names import ProgramNames
from nnrepl.session.errors import UserError
from nnrepl.session.own_names import Surroundings
from nnrepl.session.parsed import parse
from nnrepl.tape import UNBOUND, Activation, Holder, Tape
from nnrepl.tape.bindings import Bindings
from tests.support import OpenSession, nnrepl_cli


def variables(trace: nnrepl.Trace, position: int, function: str = "") -> dict[str, Any]:
    """What the innermost call of a function (or of the op at a position) held there, tensors as `#n` or their label."""
    tape = trace.tape
    scope: Activation | None = tape.ops[min(position, len(tape) - 1)].scope
    while scope is not None and function and scope.code.co_name != function:
        scope = scope.parent
    assert scope is not None
    return {name: plain(tape, thing, position) for name, thing in tape.bindings.variables(scope, position).items()}


def plain(tape: Tape, thing: Any, position: int) -> Any:
    if isinstance(thing, Holder):
        held = tape.bindings.contents(thing, position)
        if isinstance(held, dict):
            return {key: plain(tape, item, position) for key, item in held.items() if not key.startswith("_")}
        return [plain(tape, item, position) for item in held]
    if isinstance(thing, weakref.ref):
        thing = thing()
        return getattr(thing, "__name__", type(thing).__name__)
    if hasattr(thing, "held"):
        return thing.label if thing.op is None else f"{thing.op.label}"
    return thing


def traced(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> nnrepl.Trace:
    return nnrepl.trace(fn, *args, **kwargs)


def test_each_variable_at_each_op() -> None:
    def f(x: mx.array) -> mx.array:
        n = 0
        h = x + 1
        for n in range(3):  # noqa: B007
            h = mx.tanh(h)
        y = h * 2
        return y.sum()

    trace = traced(f, mx.array([1.0, 2.0]))
    assert variables(trace, 0) == {"x": "x", "n": 0}
    assert variables(trace, 1) == {"x": "x", "n": 0, "h": "#1"}
    assert variables(trace, 2) == {"x": "x", "n": 1, "h": "#2"}
    assert variables(trace, 3) == {"x": "x", "n": 2, "h": "#3"}
    assert variables(trace, 5) == {"x": "x", "n": 2, "h": "#4", "y": "#5"}


def test_what_a_call_held_when_it_returned() -> None:
    def inner(a: mx.array) -> mx.array:
        kept = a * 2
        return kept

    def outer(x: mx.array) -> mx.array:
        return inner(x) + 1

    trace = traced(outer, mx.array([1.0]))
    scope = trace.ops[0].scope
    assert scope is not None
    assert trace.tape.bindings.held(scope, "kept", 0) is UNBOUND
    assert trace.tape.bindings.held(scope, "kept", 1) is trace.ops[0].outputs[0]


def test_changes_in_place_reach_every_variable_and_container() -> None:
    def f(x: mx.array) -> mx.array:
        a = x + 0
        b, c = a, [a]
        a += 1
        a[0] = 5.0
        return (b * c[0]).sum()

    trace = traced(f, mx.array([1.0, 2.0]))
    assert variables(trace, 1) == {"x": "x", "a": "#1", "b": "#1", "c": ["#1"]}
    assert variables(trace, 3) == {"x": "x", "a": "#3", "b": "#3", "c": ["#3"]}


def test_containers_as_they_were() -> None:
    def f(x: mx.array) -> mx.array:
        parameters = {"w": x * 1, "layers": [{"b": x * 2}]}
        seen: list[mx.array] = []
        for _ in range(2):
            parameters["w"] = parameters["w"] + 1
            seen.append(parameters["w"] * 3)
        return sum(seen, x)

    trace = traced(f, mx.array([1.0]))
    assert variables(trace, 2)["parameters"] == {"w": "#1", "layers": [{"b": "#2"}]}
    assert variables(trace, 3)["parameters"]["w"] == "#3"
    assert variables(trace, 3)["seen"] == []
    assert variables(trace, 5)["seen"] == ["#4"]
    assert variables(trace, 7)["seen"] == ["#4", "#6"]


def test_a_model_as_it_was() -> None:
    model = nn.BatchNorm(2)

    def f(m: nn.Module, x: mx.array) -> mx.array:
        y = m(x)
        return (y * m.running_mean).sum()

    x = mx.array([[1.0, 2.0], [3.0, 5.0]])
    trace = traced(f, model, x, wrt=model)
    early = variables(trace, 1, "f")["m"]
    late = variables(trace, trace.ops[-1].position, "f")["m"]
    assert early["weight"] == late["weight"] == "weight"
    assert early["running_mean"] != late["running_mean"]


def test_nothing_is_kept_alive() -> None:
    gone: list[weakref.ref[Any]] = []

    class Thing:
        pass

    def f(x: mx.array) -> mx.array:
        thing = Thing()
        big = {"g": x * 3}
        gone.append(weakref.ref(thing))
        y = x + big["g"]
        return y.sum()

    trace = traced(f, mx.array([1.0]))
    gc.collect()
    assert gone[0]() is None
    assert variables(trace, 1)["thing"] == {}
    assert variables(trace, 1)["big"] == {"g": "#1"}


def test_deleted_variables_are_not_set() -> None:
    def f(x: mx.array) -> mx.array:
        h = x + 1
        y = h * 2
        del h
        return y.sum()

    trace = traced(f, mx.array([1.0]))
    assert variables(trace, 1) == {"x": "x", "h": "#1"}
    assert variables(trace, 2) == {"x": "x", "y": "#2"}


def test_a_changed_timeline_has_its_own_facts() -> None:
    def f(x: mx.array) -> mx.array:
        h = x + 1
        holder = [h]
        holder.append(h * 2)
        return (holder[1] * h).sum()

    first = traced(f, mx.array([1.0]))
    second = first.set("h", 7.0)
    assert variables(first, 2)["h"] == "#1"
    assert second.tape.notes.edits
    place = second.ops[-1].position
    held = second.tape.bindings.held(second.ops[-1].scope, "h", place)  # type: ignore[arg-type]
    assert held.array.item() == 7.0
    assert variables(first, 2)["holder"] == ["#1", "#2"]


def test_an_attribute_called_eval_does_not_hide_a_function() -> None:
    def f(x: mx.array) -> mx.array:
        h = x + 1
        mx.eval(h)
        y = h * 2
        return y.sum()

    assert variables(traced(f, mx.array([1.0])), 2) == {"x": "x", "h": "#1", "y": "#2"}


def test_a_program_that_keeps_its_locals_finds_them_as_they_were() -> None:
    def f(x: mx.array) -> mx.array:
        n = 1
        kept = locals()
        n = 2
        y = x * n
        assert kept["n"] == 1
        return y.sum()

    traced(f, mx.array([1.0]))


def test_a_function_that_looks_something_up_in_its_locals_has_variables() -> None:
    def f(x: mx.array) -> mx.array:
        n = 2 if "x" in locals() else 1
        h = locals()["x"] * n * len(vars(types.SimpleNamespace(a=1))) * locals().get("n")
        y = locals().copy()["h"] * 1
        return y.sum()

    assert variables(traced(f, mx.array([1.0])), 5) == {"x": "x", "n": 2, "h": "#3", "y": "#4"}


def test_settings_are_few() -> None:
    assert is_data(types.SimpleNamespace(sizes=[8, 4], name="net", of={"a": (1, None)}))
    assert not is_data(types.SimpleNamespace(table=[[0] * 200] * 200)), "each list is short, and yet there are many"
    assert not is_data(object()), "a mark, which is nothing but itself"


def test_views_of_ones_own_locals_are_kept_as_well() -> None:
    def f(x: mx.array) -> mx.array:
        kept = locals().items()
        y = x * 2
        assert "y" not in dict(kept)
        return y.sum()

    traced(f, mx.array([1.0]))


def test_calls_of_a_compiled_function_that_are_repeated_have_variables_of_their_own() -> None:
    @mx.compile
    def compiled(x: mx.array) -> mx.array:
        h = x * 2
        k = mx.tanh(h)
        return k.sum()

    def f(x: mx.array) -> mx.array:
        first = compiled(x)
        second = compiled(x + first)
        return second * first

    trace = traced(f, mx.array([1.0, 2.0]))
    tanh = [op for op in trace.ops if op.name == "tanh"]
    assert len(tanh) == 2
    for op in tanh:
        assert op.scope is not None
        held = trace.tape.bindings.variables(op.scope, op.position)
        assert held["h"] is op.inputs[0]
        assert "k" not in held
    final = trace.tape.bindings.variables(tanh[1].scope, len(trace.tape))  # type: ignore[arg-type]
    assert final["k"] is tanh[1].outputs[0]


def test_a_long_list_is_as_long_as_it_was_and_a_longer_one_is_said_to_be_too_long() -> None:
    def f(x: mx.array) -> mx.array:
        seen: list[int] = []
        for n in range(40):
            seen.append(n)
            y = x + n
        seen += list(range(5000))
        return y.sum()

    trace = traced(f, mx.array([1.0]))
    assert variables(trace, 29)["seen"] == list(range(30))
    session = OpenSession(trace)
    session.goto("end")
    with pytest.raises(UserError, match="was a list of 5040 entries: too many to be kept"):
        session.run("p seen")


def test_an_optimizers_state_is_known_as_it_is_inside_of_its_update() -> None:
    """It changes in a call of the library's, and the program's own line goes on only after that."""

    def train(x: mx.array) -> mx.array:
        model, opt = nn.Linear(2, 1), optim.Adam(0.1)
        states = [model.state, opt.state]
        for _ in range(2):
            grads = nn.value_and_grad(model, lambda model: model(x).sum())(model)[1]
            opt.update(model, grads)
        return x * len(states)

    session = OpenSession(nnrepl.trace(train, mx.array([1.0, 2.0])))
    count, seen = 0, 0
    for op in session.tape.ops:
        scope = op.scope
        while scope is not None and scope.code.co_name != "train":
            scope = scope.parent
        if op.phase == "update" and scope is not None:
            where = Surroundings(op.position, scope, None)
            for text in ("opt.step", "opt.state['step']", "states[1]['step']"):
                assert session.expressions.evaluate(parse(text), where).item() == count, f"{text} at {op.label}"
            seen += 1
        count += op.name == "add" and op.scope is not None and op.scope.code.co_name == "apply_gradients"
    assert count == 2
    assert seen > 30


class Counted(nn.Module):
    """A model with attributes that are no tensors: MLX keeps those beside the dict that a module is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.count, self.rate, self.called, self.seen = 0, 1.0, "a", [0]

    def __call__(self, x: mx.array) -> mx.array:
        self.count += 1
        self.rate /= 2
        self.called += "b"
        self.seen.append(self.count)
        return self.inner(x).sum()


def test_what_a_model_holds_beside_its_parameters_is_what_it_held() -> None:
    model = Counted()

    def steps(x: mx.array) -> mx.array:
        total = mx.array(0.0)
        for _ in range(3):
            total = total + nn.value_and_grad(model, model)(x)[0]
        return total

    trace = nnrepl.trace(steps, mx.ones((1, 2)))
    session = OpenSession(trace)
    sums = [op for op in trace.ops if op.name == "sum"]
    for number in (2, 1, 3):
        session.run(f"goto {sums[number - 1].label}")
        told = str(session.run("print self.count, self.rate, self.called, self.seen")).strip().split("\n")
        seen = list(range(number + 1))
        assert [line.rpartition(" = ")[2] for line in told] == [
            str(number), str(0.5**number), repr("a" + "b" * number), str(seen),
        ]  # fmt: skip
    assert (model.count, model.rate, model.called, model.seen) == (3, 0.125, "abbb", [0, 1, 2, 3])
    assert sorted(model) == ["inner", "seen"]
    assert {"count", "rate", "called"} <= set(vars(model))


class Caching(nn.Module):
    """A model that puts things away in the midst of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.cache, self.kept = nn.Linear(2, 2), {}, {"keys": []}

    def __call__(self, x: mx.array, key: str) -> mx.array:
        h = self.inner(x)
        self.cache[key] = h
        self.kept["keys"].append(key)
        return mx.tanh(h)


def test_what_a_model_puts_away_in_the_midst_of_a_call_is_there_at_its_next_op_and_for_its_callers() -> None:
    model = Caching()

    def both(x: mx.array) -> mx.array:
        model.cache.clear()
        model.kept["keys"].clear()
        return model(x, "a") + model(x, "b")

    def step(x: mx.array) -> mx.array:
        return nn.value_and_grad(model, lambda x: both(x).sum())(x)[0]

    trace = nnrepl.trace(lambda x: step(x) + step(x), mx.ones((1, 2)))
    session = OpenSession(trace)
    for name, line, expected in (
        ("tanh", "print list(self.cache), self.kept['keys']", ["['a']", "['a', 'b']"]),
        ("add", "print list(model.cache), model.kept['keys']", ["['a', 'b']"]),
    ):
        ops = [op for op in trace.ops if op.name == name and op.pass_.wrt and op.phase == "forward"]
        for op, held in zip(ops, expected * 2, strict=True):
            session.run(f"goto {op.label}")
            assert [one.rpartition(" = ")[2] for one in str(session.run(line)).strip().split("\n")] == [held, held]


def test_global_variables_of_an_imported_module_are_those_of_then(tmp_path: Path) -> None:
    """Others set them between two calls of its functions, and change what they hold."""
    (tmp_path / "settings.py").write_text(
        "import mlx.core as mx\nscale, shift, cfg = 1.0, mx.array([1.0, 1.0]), {'n': 1}\n"
        "def scaled(x):\n    y = x * scale\n    y = y + shift\n    return y * cfg['n']\n"
    )
    program = tmp_path / "main.py"
    program.write_text(
        "import mlx.core as mx\nimport settings\nx = mx.array([1.0, 2.0])\n"
        "for i in range(1, 5):\n"
        "    settings.scale, settings.shift, settings.cfg['n'] = float(i), mx.array([1.0, 1.0]) * i, i\n"
        "    print(settings.scaled(x))\n"
    )
    asked = ("p i, scale, cfg, shift.tolist()",)
    lines = ("break settings.py:6", *("c", *asked) * 4, *("rc", *asked) * 3, "q")
    shown = nnrepl_cli("--plain", str(program), stdin="\n".join(lines) + "\n").stdout
    told = re.findall(r"i = (\d)\nscale = (\S+)\ncfg = \{'n': (\d)\}\nshift.tolist\(\) = \[(\S+), ", shown)
    assert told == [(str(i), f"{i}.0", str(i), f"{i}.0") for i in (1, 2, 3, 4, 3, 2, 1)]


def test_whose_a_parameter_is_is_not_asked_again_where_nothing_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are asked for by the thousand, and no container may hold what gradients were taken of."""

    def fn(w: mx.array) -> mx.array:
        return sum((mx.grad(lambda w: (w * w).sum())(w) for _ in range(20)), start=mx.array(0.0))

    trace = nnrepl.trace(fn, mx.ones((2,)))
    taken = [value for pass_ in trace.tape.passes for value in pass_.wrt]
    asked: list[object] = []
    identity = ProgramNames.identity
    monkeypatch.setattr(ProgramNames, "identity", lambda self, value: asked.append(value) or identity(self, value))
    assert {value.name for value in taken} == {"w"}
    assert len(taken) == len(asked) == 20


def test_adding_up_in_place_costs_the_same_however_much_the_program_holds() -> None:
    """Micrograd's way: a program of thousands of objects, each with a gradient that grows in place. Each growth was a
    walk over all of them. Counted in calls, as time says little on a busy machine."""

    class Node:
        def __init__(self, data: float) -> None:
            self.data, self.grad = mx.array(data), mx.array(0.0)

    def calls(size: int) -> int:
        counted = 0

        def program() -> mx.array:
            nodes = [Node(float(at)) for at in range(size)]
            nodes[0].grad += 1.0

            def count(frame: Any, event: str, argument: Any) -> None:
                nonlocal counted
                counted += event == "call"

            sys.setprofile(count)
            try:
                for node in nodes[:40]:
                    node.grad += node.data
            finally:
                sys.setprofile(None)
            return nodes[39].grad

        trace = nnrepl.trace(program)
        assert trace.value.item() == 39.0
        return counted

    few, many = calls(100), calls(1600)
    assert many < 1.5 * few


def test_what_is_noted_of_a_container_holds_from_its_position_on() -> None:
    """Noted twice at one position, it is what was noted last; a list that has grown is continued where it can be."""
    bindings, holder = Bindings(), Holder(list, lambda: None)
    assert not bindings.grow(0, holder, [1])
    bindings.hold(1, holder, [0])
    bindings.hold(1, holder, [1, 2])
    assert bindings.grow(3, holder, [3])
    assert not bindings.grow(3, holder, [4])
    assert [bindings.contents(holder, at) for at in range(5)] == [None, [1, 2], [1, 2], [1, 2, 3], [1, 2, 3]]
    found = [bindings.entry(holder, key, 3) for key in (0, 2, 3, -3, -4, "x")]
    assert found == [1, 3, UNBOUND, 1, UNBOUND, UNBOUND]
    assert bindings.entry(holder, 2, 2) is UNBOUND
    bindings.hold(5, holder, {"x": 7})
    assert not bindings.grow(6, holder, [8])
    assert [bindings.entry(holder, key, 6) for key in ("x", "y")] == [7, UNBOUND]


@pytest.mark.parametrize(
    ("at", "positions"),
    [(None, [1, 4]), (0, [1, 4]), (1, [2, 4]), (2, [3, 4]), (3, [1, 4]), (4, [1, 5])],
)
def test_what_a_call_gives_is_there_after_the_op_that_the_call_is(at: int | None, positions: list[int]) -> None:
    """It was noted by reference in the midst of the call, in a list from 1 on and, longer, from 4 on."""
    ops = nnrepl.trace(lambda x: ((x + 1) * 2 - 3) / 4 + 5, mx.ones(2)).ops
    bindings, holder, thing = Bindings(), Holder(list, lambda: None), mx.ones(2)
    value = ops[0].inputs[0] if at is None else ops[at].outputs[0]
    for position, entries in ((1, [weakref.ref(thing)]), (4, [weakref.ref(thing), 7])):
        bindings.hold(position, holder, entries)
    bindings.know(0, {id(thing): value})
    assert [position for position, *_ in bindings.holds] == positions
    assert [position for position, *_ in bindings.versions()[holder]] == positions
    assert bindings.contents(holder, positions[0]) == [value]
    assert bindings.contents(holder, positions[1]) == [value, 7]
    assert bindings.contents(holder, positions[0] - 1) is None
