"""A name is what Python would say here: one rule for every command, held against plain programs."""

from __future__ import annotations

import copy
import functools
import linecache
import operator
import random
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from rich.console import Console

import nnrepl
from nnrepl.explain.why import why
from nnrepl.record import names
from nnrepl.session.errors import UserError
from nnrepl.session.own_names import Surroundings
from nnrepl.session.parsed import parse
from tests.support import OpenSession, assert_same_bits, loaded, nnrepl_cli, script_python


def remember(name: str, source: str) -> str:
    """A file name under which Python finds the source of a program of a test."""
    filename = f"<{name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return filename


# -- every spelling of a call names the right operands ---------------------------------------------------------


class _Box:
    def __init__(self, array: mx.array) -> None:
        self.array = array

    def __matmul__(self, other: mx.array) -> mx.array:
        return other @ self.array


def _decorated(fn: Callable[..., mx.array]) -> Callable[..., mx.array]:
    @functools.wraps(fn)
    def swap(*args: mx.array) -> mx.array:
        return fn(*reversed(args))

    return swap


@_decorated
def _subtract(a: mx.array, b: mx.array) -> mx.array:
    return a - b


NAMES = {"mx": mx, "operator": operator, "functools": functools, "_Box": _Box, "_subtract": _subtract}
SPELLINGS = [
    "a @ b", "b - a", "operator.matmul(b, a)", "operator.sub(*(b, a))", "mx.array.__sub__(b, a)", "a.__rsub__(b)",
    "functools.partial(mx.subtract, b)(a)", "getattr(b, '__sub__')(a)", "mx.subtract(*[b, a])", "mx.matmul(b, a)",
    "functools.reduce(operator.sub, [b, a, b])", "list(map(operator.sub, [b], [a]))[0]", "_Box(a) @ b",
    "mx.where(condition=a > b, x=b, y=a) if False else mx.where(a > b, b, a)", "mx.addmm(b, a, b)", "_subtract(a, b)",
    "(lambda a, b: b - a)(b, a)", "sum([b, a])", "max([b, a], key=lambda v: v.sum().item())",
    "b.__class__.__sub__(b, a)",
    "[y - x for x, y in [(a, b)]][0]", "(b - a if True else a - b)", "operator.methodcaller('__sub__', a)(b)",
    "mx.concatenate([b, a])", "mx.stack([b, a])[0]", "mx.maximum(b, a).T.T", "functools.partial(operator.sub, b)(a)",
    "(lambda *args: args[1] - args[0])(a, b)", "(lambda **named: named['b'] - named['a'])(a=a, b=b)", "-(a - b)",
    "next(map(operator.neg, [b])) + a", "operator.itemgetter(0)([b - a, a])", "{'r': b - a}['r']", "b.at[0].add(a[0])",
 "(c := b - a) * 1", "mx.vmap(operator.sub)(b, a)",
    "mx.einsum('ij,jk->ik', b, a)",
    "functools.lru_cache(lambda s: b - a)('x')",
]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_of_a_call_never_names_a_wrong_tensor(spelling: str) -> None:
    namespace: dict[str, Any] = dict(NAMES)
    source = f"def f(a, b):\n    r = {spelling}\n    s = r + 1\n    return s.sum()\n"
    exec(compile(source, remember("spelling", source), "exec"), namespace)
    a, b = mx.array([[1.0, 2.0], [3.0, 5.0]]), mx.array([[7.0, 11.0], [13.0, 17.0]])
    plain = namespace["f"](a, b)
    given: dict[str, Any] = {"a": a.tolist(), "b": b.tolist(), "r": (plain, None)}
    exec(f"def g(a, b):\n    return {spelling}\n", namespace)
    given["r"] = namespace["g"](a, b).tolist()
    trace = nnrepl.trace(namespace["f"], a, b)
    session = OpenSession(trace)
    for op in trace.ops:
        for value in op.outputs:
            if value.name in given:
                assert value.array.tolist() == given[value.name], f"{value.name} is not {op.label} {op.name}"
        assert f_variable(session, "a", op.position) == given["a"]
        assert f_variable(session, "b", op.position) == given["b"]
    assert f_variable(session, "r", trace.ops[-1].position) == given["r"]
    assert_operands_are_called_what_python_calls_them(session)


def assert_operands_are_called_what_python_calls_them(session: Any) -> None:
    """A variable's name stands for an operand only if that variable is it, at that op, for code at its line."""
    for op in session.tape.ops:
        for value in op.inputs:
            name = op.called(value)
            if name.isidentifier():
                found = session.expressions.evaluate(parse(name), Surroundings(op.position, op.scope, None))
                assert flat(found) == value.array.tolist(), f"{op.label} {op.name}: {name}"


def f_variable(session: Any, name: str, position: int) -> Any:
    """What a variable of `f` holds at a position."""
    scope = session.tape.ops[position].scope
    while scope.code.co_name != "f":
        scope = scope.parent
    return session.expressions.evaluate(parse(name), Surroundings(position, scope, None)).tolist()


LENT = """
total = mx.zeros(2)

class Pair:
    def __init__(self, left, right): self.left, self.right = left, right
    def sum(self): return self.left + self.right
    @classmethod
    def of(cls, a, b):
        c = b * 2
        return cls(c, a)

def bump(x):
    global total
    old = total
    total = total + x
    return old

def scaled(x, w=2.0, bias=None):
    out = x * w
    return out - bias

def main(a, b):
    kw = {"w": 3.0, "bias": b}
    scaled(a, **kw)
    pair = Pair.of(a, b)
    r = pair.sum()
    c = r * 2
    r = bump(a)
    r = bump(b)
    xs = [a, b]
    a, b = b, a
    return xs[0] - b + c + r
"""


def test_an_operand_is_called_what_the_ops_line_calls_it() -> None:
    """Not what a call that is over called it (`c`), what a caller will call it (`r`), or where it lies (`kw.bias`)."""
    namespace: dict[str, Any] = {"mx": mx, "__name__": "program"}
    exec(compile(LENT, remember("lent", LENT), "exec"), namespace)
    trace = nnrepl.trace(namespace["main"], mx.array([1.0, 2.0]), mx.array([5.0, 7.0]))
    session = OpenSession(trace)
    assert_operands_are_called_what_python_calls_them(session)
    shown = [(op.name, *(op.called(value) for value in op.inputs)) for op in trace.ops]
    assert shown[:7] == [
        ("multiply", "x"), ("subtract", "out", "bias"), ("multiply", "b"), ("add", "#3", "a"), ("multiply", "r"),
        ("add", "old", "x"), ("add", "old", "x"),
    ]  # fmt: skip


# -- random programs, at each moment held against a plain run -----------------------------------------------------


def random_program(seed: int) -> str:
    """A program that calls `probe()` now and then; its variables are set, set anew, changed in place, deleted, put
    into lists, dicts and objects, and seen by closures."""
    begin = ["n = 0", "total = mx.array(0.0)", "items, table, thing = [], {}, Thing()", "a = x * 1"]
    body = textwrap.indent("\n".join([*begin, *_block(random.Random(seed), 2, ["a", "x"], [0])]), "    ")
    return f"class Thing:\n    pass\n\ndef f(x):\n{body}\n    return total + x.sum()\n"


def _block(dice: random.Random, depth: int, known: list[str], count: list[int]) -> list[str]:
    lines: list[str] = []
    for _ in range(dice.randint(3, 6)):
        lines += [*_statement(dice, depth, known, count), "probe()"]
    return lines


def _statement(dice: random.Random, depth: int, known: list[str], count: list[int]) -> list[str]:
    name, source, number = dice.choice("abcdef"), dice.choice(known), dice.randint(1, 5)
    kind = dice.randint(0, 13)
    if kind < 4 or (kind == 10 and not depth) or kind == 9:
        if kind == 9 and depth == 2 and len(set(known)) > 2:
            known[:] = [other for other in known if other != source]
            return [f"del {source}"]
        known.append(name)
        return [f"{name} = mx.{dice.choice(['tanh', 'sin', 'abs'])}({source}) + {number}"]
    if kind == 10:
        return [
            f"for n in range({dice.randint(1, 2)}):",
            *("    " + line for line in _block(dice, depth - 1, known, count)),
        ]
    if kind == 11:
        count[0] += 1
        known.append(name)
        inside = [
            "nonlocal total",
            f"y = x * {number}",
            "total = total + y.sum()",
            "probe()",
            "z = y + total",
            "return z",
        ]
        return [f"def inner{count[0]}(x):", *("    " + line for line in inside), f"{name} = inner{count[0]}({source})"]
    if kind == 12:
        other = dice.choice(known)
        known.append(name)
        return [f"{name} = [v * {number} for v in ({source}, {other})][1]"]
    simple = {
        4: f"{source} += {number}", 5: f"{source}[0] = {number}", 6: f"items.append({source} * 2)",
        7: f"table['{name}'] = {source} - 1", 8: f"thing.{name} = {source} * 0.5",
    }  # fmt: skip
    return [simple[kind]] if kind in simple else [f"if n % 2 == {number % 2}:", f"    {source} = {source} - 1"]


def flat(thing: Any) -> Any:
    """Something that two runs can be compared by."""
    if isinstance(thing, mx.array):
        return thing.tolist()
    if isinstance(thing, (list, tuple)):
        return [flat(item) for item in thing]
    if isinstance(thing, dict):
        return {key: flat(item) for key, item in thing.items()}
    if type(thing).__name__ == "Thing":
        return flat(vars(thing))
    return thing if isinstance(thing, (int, float, str)) else type(thing).__name__


@pytest.mark.parametrize("seed", range(12))
def test_every_variable_at_every_moment_is_what_python_says(seed: int) -> None:
    source = random_program(seed)
    filename = remember(f"walk{seed}", source)
    moments: list[dict[str, Any]] = []

    def snapshot(frame: FrameType | None) -> None:
        assert frame is not None
        moments.append({name: flat(thing) for name, thing in frame.f_locals.items() if name not in ("v",)})

    plain: dict[str, Any] = {"__name__": "program", "mx": mx, "probe": lambda: snapshot(sys._getframe(1))}
    exec(compile(source, filename, "exec"), plain)
    plain["f"](mx.array([1.0, 2.0]))
    recorded: dict[str, Any] = {"__name__": "program", "mx": mx}
    exec(compile("def probe():\n    return mx.zeros(1)\n", "<probe>", "exec"), recorded)
    exec(compile(source, filename, "exec"), recorded)
    trace = nnrepl.trace(recorded["f"], mx.array([1.0, 2.0]))
    session = OpenSession(trace)
    places = [op for op in trace.ops if op.scope is not None and op.scope.code.co_name == "probe"]
    assert len(places) == len(moments)
    assert_operands_are_called_what_python_calls_them(session)
    order = list(enumerate(places))
    random.Random(seed).shuffle(order)
    for at, op in order:
        assert op.scope is not None
        where = Surroundings(op.position, op.scope.parent, None)
        for name, wanted in moments[at].items():
            try:
                found = flat(session.expressions.evaluate(parse(name), where))
            except UserError as answer:
                if wanted == "function" and "no longer exists" in str(answer):
                    continue
                raise AssertionError(f"{name} at moment {at}: {answer}\n{source}") from None
            assert found == wanted, f"{name} at moment {at}\n{source}"
        for name in "abcde":
            if name not in moments[at] and op.scope.parent is not None and op.scope.parent.code.co_name == "f":
                with pytest.raises((UserError, NameError)):
                    session.expressions.evaluate(parse(name), where)


# -- several models ------------------------------------------------------------------------------------------------

GAN = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
def mlp(i, o): return nn.Sequential(nn.Linear(i, 3), nn.Tanh(), nn.Linear(3, o))
G, D = mlp(2, 4), mlp(4, 1)
z, real = mx.random.normal((5, 2)), mx.random.normal((5, 4))
def d_loss(m): return (m(mx.stop_gradient(G(z))) - m(real)).mean()
def g_loss(m): return -D(m(z)).mean()
d_grad, g_grad = nn.value_and_grad(D, d_loss), nn.value_and_grad(G, g_loss)
od, og = optim.SGD(0.1), optim.SGD(0.2)
for i in range(2):
    ld, gd = d_grad(D)
    od.update(D, gd)
    lg, gg = g_grad(G)
    og.update(G, gg)
    mx.eval(G, D)
    print(i, G.layers[0].weight.sum().item(), D.layers[0].weight.sum().item())
"""


def play(source: str, *lines: str, tmp_path: Any, native: str = "on") -> list[str]:
    """What is answered to each line, in one run of a program."""
    path = tmp_path / "program.py"
    path.write_text(source)
    result = nnrepl_cli(
        "--plain", str(path), stdin="\n".join([*lines, "quit", ""]), env={"COLUMNS": "200", "NNREPL_NATIVE": native}
    )
    answers = re.split(r"^\(nnrepl(?: \d+)?\) .*\n", result.stdout, flags=re.MULTILINE)[1:]
    return [answer.rstrip() if answer.count("\n") > 1 else answer.rstrip().rpartition(" = ")[2] for answer in answers]


def test_two_models_are_told_apart_in_every_command(tmp_path: Any) -> None:
    """No number of the one is shown as the other's: held against plain Python at the same places."""
    plain: dict[str, Any] = {}
    exec(GAN.split("for i in range(2)")[0], plain)
    d_loss, d_grad = plain["d_grad"](plain["D"])
    g_weight, d_weight = plain["G"].layers[0].weight.sum().item(), plain["D"].layers[0].weight.sum().item()
    d_norm = mx.linalg.norm(d_grad["layers"][0]["weight"]).item()
    answers = play(
        GAN, "until update", "p layers.0.weight.sum().item()", "p G.layers.0.weight.sum().item()",
        "p D.layers.0.weight.sum().item()",
        "p mx.linalg.norm(grad(D.layers.0.weight)).item()", "info parameters", "p grad(G.layers.0.weight)",
        "stats D.layers.0.weight, G.layers.0.weight", "what G.layers.0.weight", "p D.layers[0].weight.shape",
        "p G.parameters()['layers'][0]['weight'].sum().item()", "p ld.item()", "p lg",
        "p gd['layers'][2]['bias'].shape", "until step 2", "p layers.0.weight",
        tmp_path=tmp_path,
    )  # fmt: skip
    _, bare, g, d, norm, parameters, no_gradient, stats, what, shape, called, loss, ahead, bias, _, shared = answers[
        :16
    ]
    assert float(bare) == d_weight  # the only one that has been differentiated
    assert "several models" in shared
    assert "G.layers.0.weight" in shared
    assert "D.layers.0.weight" in shared
    assert float(g) == g_weight
    assert float(d) == d_weight
    assert float(norm) == d_norm
    assert "D.layers.0.weight" in parameters
    assert "G.layers" not in parameters
    assert "G.layers.0.weight" in no_gradient
    assert not re.search(r"= \[", no_gradient)
    assert stats.index("D.layers.0.weight") < stats.index("(3, 4)") < stats.index("G.layers.0.weight")
    assert "(3, 2)" in what
    assert shape == "(3, 4)"
    assert float(called) == g_weight
    assert float(loss) == d_loss.item()
    assert "not bound yet" in ahead
    assert bias == "(1,)"


MLP = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)]
    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = mx.tanh(layer(x))
        return self.layers[-1](x)
"""
IN_TURN = (
    MLP
    + """\
def run(number):
    mx.random.seed(number)
    model = MLP()
    grad_of = nn.value_and_grad(model, lambda x: mx.square(model(x) - number).mean())
    opt = optim.SGD(0.1)
    for i in range(2):
        loss, grads = grad_of(mx.ones((4, 2)))
        opt.update(model, grads)
        mx.eval(model.parameters())
        print(mx.linalg.norm(grads["layers"][0]["weight"]).item(), model.layers[0].weight.sum().item())
    return model
kept = []
for number in range(3):
    kept.append({"model": run(number)})
"""
)


@pytest.mark.parametrize("native", ["off", "on"])
def test_models_that_are_trained_in_turn_are_each_the_one_that_its_run_calls_model(native: str, tmp_path: Any) -> None:
    """The program keeps them in a list of its own, and one variable has held them all."""
    path = tmp_path / "in_turn.py"
    path.write_text(IN_TURN)
    printed = script_python(path)
    norms, sums = zip(*(map(float, line.split()) for line in printed.split("\n") if line))
    shown, parameters, reason, weight, end, *_ = play(
        IN_TURN, "until step 6", "info gradients", "why grad(layers.0.weight)", "p layers.0.weight.sum().item()",
        "p grad(model.layers.0.weight)", tmp_path=tmp_path, native=native,
    )  # fmt: skip
    assert "step 6" in shown
    assert "∂L/∂model.layers.0.weight" in parameters
    assert "layer.weight" not in parameters
    assert len({f"{norm:.3f}" for norm in norms}) == len(norms)
    assert f"norm {norms[4]:.4f}"[:-1] in reason
    assert float(weight) == sums[4]
    assert "5#" in end


SOLVED = (
    MLP
    + """\
class Solver:
    def __init__(self, model, opt, number):
        self.model, self.opt, self.number = model, opt, number
    def loss_fn(self, x): return mx.square(self.model(x) - self.number).mean()
    def train(self):
        for i in range(2):
            loss, grads = nn.value_and_grad(self.model, self.loss_fn)(mx.ones((4, 2)))
            self.opt.update(self.model, grads)
            mx.eval(self.model.state)
def run(number):
    mx.random.seed(number)
    model = MLP()
    solver = Solver(model=model, opt=optim.SGD(0.1 if number < 2 else 1e4), number=number)
    solver.train()
    return model
kept = []
for number in range(3):
    model = run(number)
    kept.append({"model": model})
"""
)


def test_the_update_of_each_model_in_turn_is_looked_at(tmp_path: Path) -> None:
    """Of several models that are called so, health asked what became of the first one's weights."""
    path = tmp_path / "solved.py"
    for source, said in ((SOLVED, "leaping update"), (SOLVED.replace("1e4", "0.1"), "nothing is wrong with step 5")):
        path.write_text(source)
        shown = nnrepl_cli("--plain", str(path), stdin="until step 6\nhealth\nq\n", env={"NNREPL_NATIVE": "off"}).stdout
        assert said in " ".join(shown.split())


DECAY = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from mlx.utils import tree_flatten
mx.random.seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    def __call__(self, x): return self.inner(x)
def loss_fn(y, parameters):
    return mx.square(y).mean() + 0.01 * sum(mx.sum(p[1] ** 2) for p in tree_flatten(parameters))
def forward(net, x):
    y = net(x)
    return loss_fn(y, net.parameters()), y
def main():
    net = Net()
    grad_of, opt = nn.value_and_grad(net, forward), optim.Adam(0.1)
    for i in range(4):
        (loss, y), grads = grad_of(net, mx.ones((4, 2)))
        opt.update(net, grads)
        mx.eval(net.parameters(), opt.state)
main()
"""


@pytest.mark.parametrize("native", ["off", "on"])
def test_a_weight_that_a_dict_of_parameters_has_too_keeps_its_bare_path(native: str, tmp_path: Any) -> None:
    _, shown, listed, *_ = play(DECAY, "until step 3", "step", "ops", tmp_path=tmp_path, native=native)
    assert "inner.layers.0.weight" in shown
    assert "net.inner" not in shown + listed
    assert "parameters.inner" not in shown + listed


COPIES = """
import copy, mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
    def __call__(self, x): return self.inner(x)
mx.random.seed(0)
policy = LM()
reference = copy.deepcopy(policy).freeze()
target = LM()
target.update(policy.parameters())
x = mx.array([[0.5, 0.25]])
def loss_fn(policy): return (policy(x) - 2 * reference(x) - target(x)).square().sum()
vg, opt = nn.value_and_grad(policy, loss_fn), optim.SGD(0.1)
for i in range(2):
    loss, grads = vg(policy)
    opt.update(policy, grads)
    mx.eval(policy)
"""


def test_a_copy_of_a_model_is_another_model_though_its_first_weights_are_the_same_tensors(tmp_path: Any) -> None:
    """A reference or target begins with the model's own arrays: nothing of the one is said of the other."""
    path = tmp_path / "program.py"
    path.write_text(COPIES)
    asked = (
        "p grad(reference.inner.weight)",
        "p grad(target.inner.weight)",
        "why grad(reference.inner.weight)",
        "health",
    )
    lines = [
        "goto step 2",
        "until update",
        *asked,
        "goto step 1",
        "until reference.inner",
        *asked,
        "ops all",
        "where",
        "quit",
        "",
    ]
    result = nnrepl_cli("--plain", str(path), stdin="\n".join(lines), env={"COLUMNS": "200"})
    answers = re.split(r"^\(nnrepl(?: \d+)?\) .*\n", result.stdout, flags=re.MULTILINE)[1:]
    for first in (2, 8):
        reference, target, why, health = answers[first : first + 4]
        assert "no gradient was taken with respect to reference.inner.weight" in reference
        assert "no gradient was taken with respect to target.inner.weight" in target
        assert "frozen in the model (reference.unfreeze()" in why
        assert "policy" not in why
        assert "2#" not in why
        assert "reference.inner.weight, reference.inner.bias" in health
        assert "hidden weight" not in health
    assert "module inner" in answers[13]  # of the reference, which the loss function's first argument does not hold
    takers = dict(re.findall(r"#(\d+) +(?:● )?transpose +(\S+) ", answers[12]))
    assert list(takers.values()) == ["policy.inner.weight", "reference.inner.weight", "target.inner.weight"]


def _swapped(a: mx.array, b: mx.array) -> mx.array:
    c = a - b
    a, b = b, a
    d = a - b
    return c * d


def _descend(x: mx.array, n: int) -> mx.array:
    y = x * n
    return y if n == 0 else _descend(y, n - 1) - y


def _fibonacci(a: mx.array, b: mx.array) -> mx.array:
    for _ in range(3):
        a, b = b, a + b
    return b


@pytest.mark.parametrize("fn", [_swapped, _descend, _fibonacci])
def test_an_operand_has_no_name_that_another_tensor_has_at_that_moment(fn: Any) -> None:
    second: Any = 2 if fn is _descend else mx.array([3.0, 1.0])
    session = OpenSession(nnrepl.trace(fn, mx.array([1.0, 2.0]), second))
    for op in session.tape.ops:
        session.goto(op.label)
        for value in op.inputs:
            name = op.called(value)
            if name.isidentifier():
                held = session.expressions.evaluate(parse(name), session.where())
                assert mx.array_equal(held, value.array).item(), f"{op.label}: {name}"


NESTED = """
import mlx.core as mx

def loss_fn(w):
    def f(p):
        u = p * k; stage = 1
        return (u * u).sum()
    return (mx.grad(f)(w) * w).sum()

def later(f): return lambda: f()
@later
def tens(): return k * 10
w, k = mx.array([1.0, 2.0]), 1
for i in range(4):
    loss, g = mx.value_and_grad(loss_fn)(w)
    w, k = w - 0.01 * g, k + 1
    mx.eval(w)
"""


def test_a_global_variable_inside_of_a_nested_call_is_what_it_was_then_after_a_second_run(tmp_path: Any) -> None:
    there = ("goto step 2 program.py:6", "p i * 10 + k")
    inside = ("goto step 1 program.py:6", "p stage", "goto step 1 program.py:7", "p stage")
    change = ("goto step 2 program.py:8", "w = w * 2", *inside, "undo", "continue")
    setup = ("goto setup#1", "why grad(#1)")  # of what is made there, the first gradient is asked about
    said = play(NESTED, "continue", *there, *change, *there, "p tens()", *setup, tmp_path=tmp_path)
    assert said[2] == said[-5] == "12"
    assert said[-4] == "20", "what a function reads that is called there, by way of what it is wrapped in"
    assert said[6:9:2] == ["stage is not bound yet in this call", "1"]
    assert "it is finite" in said[-2], said[-2]


def test_the_losses_of_two_functions_are_no_one_line(tmp_path: Any) -> None:
    """In the middle of a step the discriminator's loss is no next point of the generator's, nor stands under it."""
    moved = GAN.replace("range(2)", "range(3)").replace("    ld, gd", "    z = z * 0.9 + 0.1\n    ld, gd")
    moved = moved.replace("    mx.eval(G", "    average = 0.5 * G.layers[0].weight\n    mx.eval(G")
    lines = ("goto step 3", "info steps", "until backward", "p ld", "plot loss", "info steps")
    start, begun, _, _, plot, steps = play(moved, *lines, tmp_path=tmp_path)[:6]
    assert "step 3 · forward 1 " in start  # the average, in the same run of ops, is of the step before
    begins = next(at for at, line in enumerate(moved.splitlines(), 1) if "z * 0.9" in line)
    assert re.search(rf"▶ +3 .*:{begins}\b", begun), begun
    losses = re.findall(r"g_loss (\S+)", steps)
    assert len(losses) == 2
    assert set(re.findall(r"-?\d+\.\d{4}", plot.splitlines()[0] + plot.splitlines()[1])) == set(losses)


TURNS = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
critic, actor, x = nn.Linear(2, 1), nn.Linear(2, 1), mx.ones((1, 2))
oc, oa = optim.SGD(0.1), optim.SGD(0.1)
def critic_loss(m): return (m(x) - 3).square().sum()
def actor_loss(m): return m(x).square().sum()
def learn():
    lc, gc = nn.value_and_grad(critic, critic_loss)(critic)
    oc.update(critic, gc)
    la, ga = nn.value_and_grad(actor, actor_loss)(actor)
    oa.update(actor, ga)
    return lc, la
for i in range(3):
    lc, la = learn()
    print(lc.item(), la.item())
"""


def test_two_losses_that_a_function_returns_are_not_each_other(tmp_path: Any) -> None:
    """`lc, la = learn()` is under way; it is no `loss, grads = ...` of the call in which the cursor stands."""
    answers = play(TURNS, "goto step 3", "until actor_loss", "p lc", "plot lc", "c", tmp_path=tmp_path)
    older, plotted, printed = answers[2:5]
    losses = [
        float(line.split()[0]) for line in (answers[0] + "\n" + printed).splitlines() if re.match(r"[\d.]+ ", line)
    ]
    assert len(losses) == 3
    said = r"(?:opening step 2: .*\n)?lc is not made yet in this step; the last one is step 2's: (lc@2#\d+)\n"
    assert re.fullmatch(rf"{said}\1 = {losses[1]:.4f}", older)
    assert f"lc   last {losses[2]:.4f} (step 3)" in plotted


def test_a_loss_that_asks_the_teacher_is_said_to_take_the_teachers_weight() -> None:
    mx.random.seed(0)
    student = nn.Linear(2, 2, bias=False)
    for teacher in (nn.Linear(2, 2, bias=False), copy.deepcopy(student)):
        teacher.freeze()

        def loss(m: nn.Module, x: mx.array, teacher: nn.Module = teacher) -> mx.array:
            return teacher(x).square().sum()

        trace = nnrepl.trace(loss, student, mx.array([[0.5, 0.25]]), wrt=student)
        session = OpenSession(trace)
        answer = why(session, "grad(m.weight)")
        assert not trace.grads["weight"].any().item()
        assert "weight is never used" in answer.headline
        assert any("#1 " in reason and "takes teacher.weight" in reason for reason in answer.reasons)


def test_the_bare_path_is_the_differentiated_models() -> None:
    mx.random.seed(0)
    policy, reference = nn.Linear(2, 2), nn.Linear(2, 2)
    reference.freeze()

    def loss(m: nn.Module, x: mx.array) -> mx.array:
        return (m(x) - reference(x)).square().sum()

    x = mx.array([[0.5, 0.25]])
    trace = nnrepl.trace(loss, policy, x, wrt=policy)
    assert mx.array_equal(trace["weight"].array, policy.weight).item()
    assert mx.array_equal(trace["reference.weight"].array, reference.weight).item()
    twice = nn.Linear(2, 2)
    twice.update(policy.parameters())
    twice.weight = policy.weight * 2
    assert trace.set("weight", lambda w: w * 2).value.item() == loss(twice, x).item()


STEPS = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
class Att(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(4, 4)
    def __call__(self, x):
        w = self.q(x)
        weights = mx.softmax(w, axis=-1)
        return weights * x
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [Att(), Att()]
    def __call__(self, x):
        for l in self.layers:
            x = l(x)
        return x
net, opt = Net(), optim.SGD(0.5)
scale, batch = 3, mx.ones((2, 4))
def loss_fn(x):
    out = net(x)
    return mx.mean(out * scale)
step = nn.value_and_grad(net, loss_fn)
for i in range(3):
    loss, grads = step(batch)
    opt.update(net, grads)
    mx.eval(net, loss)
    print(i, loss.item())
"""


HANDED_ON = """
import mlx.core as mx
learn = mx.value_and_grad(lambda w, held: (w * held["k"]).sum())
def step(w, held):
    value, grad = learn(w, held)
    return value, w - grad, {"k": held["k"] * 2}
W, P = mx.ones((2,)), {"k": mx.ones((2,))}
for i in range(3):
    value, W, P = step(W, P)
    mx.eval(value, W, P)
"""


def test_what_a_statement_takes_and_gives_another_is_what_it_takes(tmp_path: Any) -> None:
    """Until it is over, `W = step(W)` has in W what the step before gave it."""
    answers = play(HANDED_ON, "until step 2", "p W.tolist()", "p P['k'].tolist()", "p value", tmp_path=tmp_path)
    assert answers[1:3] == ["[0.0, 0.0]", "[2.0, 2.0]"]
    assert "value is not made yet in this" in answers[3]


def test_what_is_not_made_yet_says_so_with_the_last_one_under_its_own_address(tmp_path: Any) -> None:
    answers = play(
        STEPS, "until step 2", "until layers.1", "until softmax", "p weights", "p i", "p opt.learning_rate.item()",
        "p loss", "p grads", "p grad(layers.1.q.weight)", "p layers.0.weights.shape", "p layers.1.weights", "p out",
        "p net.layers.1.q.weight.shape", "p self.q.weight.shape", "p scale + i", "p sorted(locals())",
        "p [w + i for _ in 'ab'][1].shape",
        "p (lambda: w.shape)()", "until backward", "p loss.item()", "p weights", "p out.shape",
        "what weights", "p nothing", "up 40",
        tmp_path=tmp_path,
    )  # fmt: skip
    weights, number, rate, loss, grads, gradient = answers[3:9]
    assert "weights is not made yet in this call: #7 (softmax) makes it, 1 op on; the last one is layers.0's" in weights
    assert number == "1"
    assert float(rate) == 0.5
    assert re.match(
        r"loss is not made yet in this step: #\d+ \(mean\) makes it, \d+ ops on; the last one is step 1's", loss
    )
    assert "grads is not made yet in this step" in grads
    assert "is not made yet in this step: #" in gradient
    assert "step 1's" in gradient
    assert answers[9] == "(2, 4)"
    assert "layers.1.weights is not made yet" in answers[10]
    assert "out is not made yet" in answers[11] or "out is not bound yet" in answers[11]
    assert answers[12:15] == ["(4, 4)", "(4, 4)", "4"]
    assert answers[15] == "['self', 'w', 'x']"
    assert answers[16:18] == ["(2, 4)", "(2, 4)"]
    assert re.fullmatch(r"[-.\d]+", answers[19])
    assert "layers.0's weights@" in answers[20]
    assert answers[21] == "(2, 4)"
    assert answers[22] == answers[20]
    assert "nothing here is called nothing" in answers[23]


CLOSURES = """\
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from functools import partial

def make(model):
    def score(x): return model(x).sum()
    return score

def main():
    mx.random.seed(0)
    model, x, count, w, cfg, losses = nn.Linear(2, 2), mx.array([[1.0, 2.0]]), 0, mx.array([1.0]), {"s": 1.0}, []
    opt, f = optim.SGD(learning_rate=0.1), nn.value_and_grad(model, lambda m, x: m(x).square().mean())
    ev = mx.compile(lambda x: model(x).sum(), inputs=model.state)
    rows = mx.compile(lambda x: mx.take(model(x), model(x).argmax()).sum(), inputs=model.state)
    def plain(x, m=model): return m(x).sum()
    part, made, fns = partial(lambda m, x: m(x).sum(), model), make(model), {"a": [plain]}
    def mean(): return sum(losses) / max(len(losses), 1)
    def read(): return w * count * cfg["s"]
    def second(x): return plain(x) + read()
    for k in range(5):
        pass
        loss, grads = f(model, x)
        opt.update(model, grads)
        count, w = count + 1, w * 2
        cfg["s"] += 0.5
        losses.append(loss.item())
        mx.eval(model.state, w)
main()
"""
CALLED = ("ev(x)", "plain(x)", "part(x)", "made(x)", "fns['a'][0](x)", "mean()", "read()", "second(x)", "rows(x)")


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_function_that_is_called_in_the_past_has_in_its_closure_what_was_there_then(
    native: str, tmp_path: Any
) -> None:
    """A twin calls its functions itself at the beginning of each turn. Once `main` has returned, they are made again,
    with what was in their closures, and their defaults; so is what MLX has made of them. One whose maker has returned
    cannot be."""
    calls = [f"float({call})" for call in CALLED]
    twin: dict[str, Any] = {"told": []}
    exec(CLOSURES.replace("pass", f"told.append([{', '.join(calls)}])"), twin)
    said = play(
        CLOSURES, "break program.py:21, count == 4", "c", "goto step 3", *(f"p {call}" for call in calls),
        "goto end", "p count", "p kill", "clear", "c", "p w", "p count",
        "goto step 3", *(f"p {call}" for call in calls if call != "float(made(x))"), "p float(made(x))",
        "p float(f(model, x)[0] * 0 + rows(x))", "info locals", tmp_path=tmp_path, native=native,
    )  # fmt: skip
    # Where MLX traces a compiled function it puts other objects in the place of what is captured, with the same
    # numbers: that is put back, and nothing to speak of.
    assert [float(answer.rpartition(" = ")[2]) for answer in said[3:12]] == twin["told"][2]
    assert said[13] == "4", "the program waits at this end, and has its variables"
    assert said[14] == "nothing here is called kill", "what is not called so is no habit of another debugger's"
    assert said[17] == "[32]"
    assert "nothing here is called count; it is a variable of main: goto #" in said[18]
    assert said[20:28] == [*said[3:6], *said[7:12]]
    assert said[28] in (
        said[6],
        "made was a function that no longer exists, nor does the function in which it was made",
    )
    assert float(said[29]) == twin["told"][2][-1]
    assert "no longer exists" not in said[30]


TAKEN = """\
import mlx.core as mx
def gen():
    while True: yield from range(9)
def main():
    kept, it, z, g, held = [1, 2, 3], iter([10, 20, 30, 40]), zip([1, 2, 3], "abc"), gen(), [iter("xyz")]
    loss, grad = mx.value_and_grad(mx.sum)(mx.ones((2,)))
    print(kept, next(it), next(z), next(g), next(held[0]))
main()
later = 1
"""


def test_a_look_takes_nothing_from_the_program(tmp_path: Any) -> None:
    """From its iterators neither: that a generator has gone on is said, since it cannot be put back."""
    looks = ("p kept.pop()", "kept.pop()", "pp kept.pop()", "next(it)", "p next(it)", "p next(z), next(held[0])")
    said = play(
        TAKEN, *looks, "p type(it)", "p sum(kept)", "next(g)", "p later", "x = next(it)", "continue", tmp_path=tmp_path
    )
    assert [answer.splitlines()[0].rpartition(" = ")[2] for answer in said[:6]] == [
        "3",
        "3",
        "3",
        "10",
        "10",
        "(1, 'a')",
    ]
    assert all(answer.endswith("what that changed in the program is put back: a look") for answer in said[:6])
    assert said[7] == "6"
    assert said[8] == "0\ng has gone on by that, and cannot be put back: a generator"
    assert said[9] == "later is not bound yet"
    assert said[-2].startswith("[1, 2, 3] 20 (1, 'a') 0 x"), "the line that takes from it is one of the program's"


AROUND = """\
import mlx.core as mx
from mlx.utils import tree_map
g = {"w": mx.array([7.0]), "b": mx.array([8.0])}
def loss_fn(p):
    return (p["w"] * 3 + p["b"]).sum()
def step(p):
    g = mx.grad(loss_fn)(p)
    held = g["b"]
    q = tree_map(lambda a, b: a - b, p, g)  # lambda
    k = [v * 2 for v in q.values()]  # list
    def inner(v):
        return v + 1  # inner
    return inner(k[0]) + g["b"] * q["b"] * 5 + held
def run():
    step({"w": mx.array([1.0]), "b": mx.array([2.0])})
    return step({"w": mx.array([1.0]), "b": mx.array([3.0])})
"""


@pytest.mark.parametrize("place", ["lambda", "list", "inner"])
def test_a_function_sees_the_variables_of_the_one_in_whose_source_it_stands(place: str, tmp_path: Path) -> None:
    """As a line there would, though Python keeps for it only what its source reads; a global one comes after them."""
    number = next(at for at, text in enumerate(AROUND.splitlines(), 1) if text.endswith(f"# {place}"))
    session = OpenSession(nnrepl.trace(loaded(tmp_path / f"{place}.py", AROUND).run))
    op = next(op for op in session.tape.ops[len(session.tape) // 2 :] if op.source.line == number)
    session.run(f"goto {op.label}")
    assert str(session.run('p g["b"]')) == 'g["b"] = [1]'
    session.run('g["b"] = g["b"] * 10; extra = 1')
    lined = session.tape.ops[-1].outputs[0].array
    session.run("undo")
    session.run('g["b"] = g["b"] * 10')
    before = "    q = " if place == "lambda" else "    return inner"
    twin = AROUND.replace(before, f'    if p["b"].item() == 3: g["b"] = g["b"] * 10\n{before}')
    expected = loaded(tmp_path / f"{place}_twin.py", twin).run()
    assert_same_bits([expected, expected], [lined, session.tape.ops[-1].outputs[0].array])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("p nothing", "nothing here is called nothing"),
        ("p kepd", "nothing here is called kepd; did you mean kept?"),
        ("p tex", "nothing here is called tex; did you mean text?"),
        ("p latter", "nothing here is called latter; did you mean later?"),
        ("what latter", "nothing on the tape is called latter; did you mean later?"),
        ("kep.shape", "nothing here is called kep; did you mean kept?"),
        ("prnt", "nothing here is called prnt; did you mean the command print?"),
        ("p kept.shap", "has no attribute 'shap'; did you mean shape?"),
        ("p text.uper()", "has no attribute 'uper'; did you mean upper?"),
        ("p mx.matmal", "has no attribute 'matmal'; did you mean matmul?"),
        ("p gone", "gone was deleted in this call; the last one is gone@"),
        ("p later", "later is not made yet in this call: #"),
        ("p grad(nothing)", "nothing here is called nothing"),
        ("p nothing.weight", "nothing here is called nothing"),
        ("p a.5.weight", "nothing on the tape is called a.5.weight"),
        ("what nothing", "nothing on the tape is called nothing"),
        ("explain later@inner", "nothing on the tape is called later@inner"),
        ("stats nothing", "nothing here is called nothing"),
        ("stats layers.*.nothing", "no tensor is called layers.*.nothing"),
        ("p inner", "inner is a variable of 2 calls that have returned: inner@"),
        ("p count", "nothing here is called count; it is a variable of helper: goto #5 leads there"),
        ("what count", "nothing on the tape is called count; it is a variable of helper: goto #5 leads there"),
        ("p text", "'words'"),
        ("why text", "text is no tensor of the tape; p text shows what it is"),
        ("display later", "later is not made yet in this call"),
        ("watch nothing", "nothing"),
        ("p later.shape", "later is not made yet in this call: #"),
        ("p [later for _ in 'ab']", "later is not made yet in this call: #"),
    ],
)
def test_bad_names_are_answered_in_one_line(line: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def helper(v: mx.array) -> mx.array:
        inner, count = v * 2, 7
        return inner + (count - 6)

    def f(x: mx.array) -> mx.array:
        text = "words"
        gone = x + 1
        kept = helper(gone)
        del gone
        kept = helper(kept) * len(text)
        middle = kept - 1
        later = middle * 3
        return later.sum()

    session = OpenSession(nnrepl.trace(f, mx.array([1.0, 2.0])))
    middle = next(op for op in session.tape.ops if op.name == "subtract")
    session.goto(f"{middle.label}")
    console = Console(width=300)
    for ops in (5_000, -1):  # the second time as on a long tape, whose names are not all indexed yet
        monkeypatch.setattr(names, "_SOON", ops)
        with console.capture() as captured:
            try:
                console.print(session.run(line))
            except UserError as error:
                console.print(str(error), markup=False)
        answer = captured.get()
        assert said in " ".join(answer.split()), answer
        assert session.cursor == middle.position


def _later(x: mx.array) -> mx.array:
    a = x * 2
    v = a + 1  # where `a` is about to be made, v is not bound yet
    return mx.sum(a * v)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("[v for v in (1, 2)]", "[1, 2]"),
        ("sum(v * w for v, w in [(1, 2), (3, 4)])", "14"),
        ("(lambda v: v + 1)(4)", "5"),
        ("{v: a for a, v in [(1, 2)]}", "{2: 1}"),
        ("[float(x[v]) for v in (0, 1)]", "[1.0, 2.0]"),
    ],
)
def test_what_a_comprehension_names_is_its_own(line: str, shown: str) -> None:
    session = OpenSession(nnrepl.trace(_later, mx.array([1.0, 2.0]), wrt=0))
    session.goto("multiply")
    assert shown in str(session.run(line))
    for outside in ("v", "[v for x in (1, 2)]", "[v for v in (1, 2)] + [v]"):
        with pytest.raises(UserError, match="v is not made yet"):
            session.expressions.evaluate(parse(outside), session.where())


def test_a_variable_of_a_layer_is_what_the_stop_calls_so() -> None:
    """nn.Linear gives its `x` a new tensor and returns it at once: no op of its call sees that any more."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    session = OpenSession(nnrepl.trace(lambda x: model(x).sum(), mx.ones((1, 2)), wrt=model))
    for op in session.tape.ops:
        for value in op.outputs:
            if op.phase == "forward" and ".x" in value.name:
                session.goto(session.tape.ops[op.position + 1].label)
                held = session.expressions.evaluate(parse(value.name), session.where())
                assert held.shape == value.array.shape
                assert mx.array_equal(held, value.array).item(), value.name
    session.goto("start")
    assert session.expressions.evaluate(parse("layers.0.x"), session.where()).shape == (1, 2)  # it is still its input


def test_a_callers_variable_that_the_step_before_has_made_says_so() -> None:
    def train(w: mx.array) -> mx.array:
        for _ in range(2):
            loss, slope = mx.value_and_grad(lambda w: mx.square(w).sum())(w)
            w = w - 0.5 * slope * loss
        return w

    with nnrepl.recording() as recorded:
        train(mx.array([1.0]))
    session = OpenSession(recorded)
    session.run("goto 2#1")
    session.run("up")
    assert str(session.run("p slope")) == "slope (step 1's) = [2]"
    session.run("goto 1#1")
    session.run("up")
    assert "(step" not in str(session.run("p w"))


GIVEN = [
    "loss, slope = learn(w)",
    "[loss, slope] = learn(w)",
    "loss, slope = learn(w) if w.size else (None, None)",
    "loss, slope = (None, None) if not w.size else learn(w)",
    "loss, slope = (pair := learn(w))",
    "loss, slope = once(w)",
    "loss, slope = once(w) if w.size else (None, None)",
    "pair = loss, slope = learn(w)",
    "(loss, more), slope = learn_more(w)",
    "(loss, more), slope = learn_more(w) if w.size else None",
]


@pytest.mark.parametrize("line", GIVEN)
def test_a_callers_loss_is_the_one_that_its_statement_is_about_to_give(line: str, tmp_path: Path) -> None:
    """In the backward pass it is made, though the variable still holds what the step before gave it."""
    text = f"""
import mlx.core as mx
def train(w):
    learn = mx.value_and_grad(lambda w: mx.square(w).sum())
    learn_more = mx.value_and_grad(lambda w: (mx.square(w).sum(), w))
    once = lambda w: learn(w)
    for _ in range(3):
        {line}
        w = w - 0.25 * slope
"""
    program = loaded(tmp_path / f"given_{GIVEN.index(line)}.py", text)
    with nnrepl.recording() as recorded:
        program.train(mx.array([4.0]))
    session = OpenSession(recorded)
    for number, loss in ((1, 16), (2, 4), (3, 1)):
        ops = [op for op in session.tape.ops if session.tape.steps.number_at(op.position) == number]
        session.goto(next(op for op in ops if op.phase == "backward").label)
        assert str(session.run("p loss")).splitlines()[0] == f"loss = {loss}"
        session.goto(next(op for op in ops if op.phase == "forward" and op.pass_.wrt).label)
        assert str(session.run("p loss")).startswith("loss is not ")


def test_what_comes_from_outside_is_there_where_a_gradient_pass_begins() -> None:
    """Not only from the op on that takes it: the function was called with it."""
    given, weight = mx.array([1.0, 2.0]), mx.array([3.0, 4.0])
    mx.eval(given, weight)

    def run() -> mx.array:
        begun = weight * 2

        def loss(w: mx.array, taken: mx.array) -> mx.array:
            return (mx.sin(w) * taken).sum()

        return begun + mx.grad(loss)(weight, given)

    trace = nnrepl.trace(run)
    start = next(pass_.start for pass_ in trace.tape.passes if pass_.wrt)
    assert start == 1
    assert trace.names.newest("given", start - 1) is None
    found = trace.names.newest("given", start)
    assert found is not None
    assert found.array.tolist() == [1.0, 2.0]


ACCUMULATED = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from mlx.utils import tree_map
mx.random.seed(0)
model, opt = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), optim.SGD(0.1)
grad_of = nn.value_and_grad(model, lambda model, x: mx.square(model(x)).mean())
for step in range(3):
    total = None
    for part in range(3):
        loss, grads = grad_of(model, mx.full((5, 3), part + 1.0))
        total = grads if total is None else tree_map(mx.add, total, grads)
    opt.update(model, total)
    mx.eval(model.parameters())
"""


@pytest.mark.parametrize("native", ["off", "on"])
def test_accumulated_gradients_are_told_of_the_last_call_and_each_is_its_own_steps(native: str, tmp_path: Path) -> None:
    answers = play(
        ACCUMULATED, "c", "goto step 2", "what layers.0.weight", "goto step 2 update", "info gradients",
        "what layers.0.weight", "p mx.linalg.norm(grads['layers'][0]['weight']).item()", tmp_path=tmp_path,
        native=native,
    )  # fmt: skip
    _, _, ahead, _, sizes, there, norm, *_ = answers
    assert "∂L/∂layers.0.weight is not made yet in this step; the last one is step 1's: 1#" in ahead
    rows = [line for line in sizes.splitlines() if line.startswith("∂L/∂layers.0.weight ")]
    assert [float(row.split()[1]) for row in rows] == [pytest.approx(float(norm), abs=1e-4)]
    assert re.search(r"gradient +made by #\d+ vjp", there)
    assert "each of the last of 2 gradient calls that took it" in " ".join(sizes.split())


COUNTED = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
import numpy as np
class Stats:
    def __init__(self): self.counts = np.zeros(4)
    def add(self, k): self.counts[(k - 1) % 4] += k
    def top(self): return self.counts.tolist()
stats, model, opt, empty = Stats(), nn.Linear(2, 1), optim.SGD(0.1), np.zeros((0, 5000))
run = nn.value_and_grad(model, lambda model, x: mx.square(model(x)).mean())
for k in range(1, 7):
    stats.add(k)
    batch = np.full((2, 2), k, dtype=np.float32)
    loss, grads = run(model, mx.array(batch))
    opt.update(model, grads)
    mx.eval(model.parameters())
"""


def test_arrays_of_numpys_are_what_they_were_also_in_objects_and_in_a_saved_tape(tmp_path: Path) -> None:
    look = ("p stats.top()", "p stats.counts.tolist()", "p batch[0].tolist()")
    lines = ("c", "goto step 3", *look, "goto step 5", "goto step 2", *look, "goto end", look[0])
    saved = (f"save {tmp_path / 'tape'}", f"load {tmp_path / 'tape'}", "goto step 3", *look[1:], "p empty.shape")
    answers = play(COUNTED, *lines, *saved, tmp_path=tmp_path)
    assert answers[2:5] == ["[1.0, 2.0, 3.0, 0.0]", "[1.0, 2.0, 3.0, 0.0]", "[3.0, 3.0]"]
    assert answers[7:10] == ["[1.0, 2.0, 0.0, 0.0]", "[1.0, 2.0, 0.0, 0.0]", "[2.0, 2.0]"]
    assert answers[11] == "[6.0, 8.0, 3.0, 4.0]"
    assert "recorded with nnrepl" in answers[13], answers[13]
    assert answers[15:18] == ["[1.0, 2.0, 3.0, 0.0]", "[3.0, 3.0]", "(0, 5000)"]


def test_in_a_comprehension_of_the_module_its_variables_and_the_programs_are_known(tmp_path: Path) -> None:
    """It is a function of its own up to Python 3.11, and from 3.12 on a stretch of the module (PEP 709)."""
    source = """
import mlx.core as mx
params = {"w": mx.ones((2, 2)), "v": mx.ones((2,))}
for i in range(2):
    loss, grads = mx.value_and_grad(lambda p: (p["w"] @ p["v"]).sum())(params)
    params = {k: params[k] - 0.5 * grads[k] for k in params}
print(params["w"].tolist())
"""
    look = ("p k", "p i", "p sorted(grads)", "p params['v'].shape")
    answers = play(source, "until program.py:6", *look, "grads['w'][0] = 4", "c", tmp_path=tmp_path)
    assert answers[1:5] == ["'w'", "0", "['v', 'w']", "(2,)"]
    plain = source.replace("    params = {k", "    if i == 0: grads['w'][0] = 4\n    params = {k")
    (tmp_path / "plain.py").write_text(plain)
    printed = script_python(tmp_path / "plain.py")
    assert printed.strip() in answers[6]


def test_a_variable_of_the_module_that_is_changed_in_a_comprehension_there_is_changed(tmp_path: Path) -> None:
    """`f_locals` is a copy of them on Python 3.12: what was put there was lost, and nothing said so."""
    source = (
        "import mlx.core as mx\nw, scale = mx.ones((2, 2)), mx.array(3.0)\nkept = [scale]\nLINE\nprint(outs, kept)\n"
    )
    made = source.replace("LINE", "outs = [(w * k * scale).sum().item() for k in (1, 2, 3)]")
    loop = (
        "outs = []\nfor k in (1, 2, 3):\n    if k == 2: scale = scale * 2\n    outs += [(w * k * scale).sum().item()]"
    )
    (tmp_path / "plain.py").write_text(source.replace("LINE", loop))
    printed = script_python(tmp_path / "plain.py")
    *_, shown, _ = play(made, "goto start", "until program.py:4", "step 3", "scale = scale * 2", "c", tmp_path=tmp_path)
    assert printed.strip() in shown, shown


def test_what_a_function_of_the_backward_pass_returns_is_not_called_like_the_loss(tmp_path: Path) -> None:
    """MLX gets it: `l` is what the loss function returns."""
    source = """
import mlx.core as mx
@mx.custom_function
def f(x):
    return x * x
@f.vjp
def f_vjp(x, cotangent, y):
    return cotangent * x
l, g = mx.value_and_grad(lambda x: mx.checkpoint(lambda h: mx.sin(h) * h)(f(x)).sum())(mx.ones((2,)))
"""
    answers = play(source, "s", "ops all", tmp_path=tmp_path)
    backward = answers[1].partition("backward")[2]
    assert " multiply " in backward
    assert "l (2,)" not in backward


@pytest.mark.parametrize(("calls", "more"), [(6, "made@11"), (8, "made@11 and 2 more")])
def test_of_many_calls_that_have_returned_the_first_are_named(calls: int, more: str) -> None:
    def helper(v: mx.array) -> mx.array:
        made = v + 1
        return made * 2

    def many(x: mx.array) -> mx.array:
        for _ in range(calls):
            x = helper(x)
        return x.sum()

    session = OpenSession(nnrepl.trace(many, mx.array([1.0])))
    session.run("goto sum")
    with pytest.raises(nnrepl.UserError, match=f"made is a variable of {calls} calls .*, made@7, made@9, {more}$"):
        session.run("p made")
