"""`k = k * 2` gives one name another tensor, `k *= 2` changes the tensor: who else holds it sees the one and not the
other. Each line against the same function with the line written in it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from tests.support import OpenSession, assert_last_pass_is, assert_same_bits, loaded, nnrepl_cli

PROGRAM = """\
import copy
from collections import deque
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_reduce
class Held: pass
class Slots:
    __slots__ = ("k",)
held, cache, once, slots, queue = Held(), {}, [], Slots(), deque(maxlen=1)
layer, factor, key = nn.Linear(2, 2), 4.0, "k"
layer.update({"weight": mx.eye(2) + 1, "bias": mx.array([0.5, -0.5])})
def turns(x):
    yield x
    yield x * 3
def inner(x):
    u = layer(x)  # in inner
    return u + x
def norm(x):
    total = x.sum()
    y = x / total  # in norm
    return y * 1
def peek(x):
    p = x * 2
    return p * shared + x
def made(t):
    def grow(x):
        nonlocal t
        return x + t  # in grow
    return grow
def f(w):
    global shared
    k = w * 3
    def ahead(t):
        nonlocal k
        return t + k  # in ahead
    def later(t):
        nonlocal k
        return t * k  # in later
    def each():
        yield k
        yield k * 0.5
    far, near, every = made(k), made(k), each()
    next(every)
    held.k = shared = k
    cache["k"] = k
    keep, pair = [k], (k, 1)
    again, late = lambda: k * 0.5, (lambda t: lambda: t * 0.25)(k)
    slots.k, copied, turn = k, copy.copy(k), turns(k)
    queue.append(k)
    next(turn)
    a = k + 1  # a
    b = k + cache["k"]  # b
    c = held.k * 2 + keep[0] + pair[0]  # c
    d = k + norm(k)  # d
    e = norm(cache["k"]) + again() + late()  # e
    s = k * slots.k + queue[0] * copied + next(turn)  # s
    r = factor * k + (factor < k) - k  # r
    y = 0.5 * cache[key] + cache[key] * 0.5 + factor * k  # y
    g = peek(shared) * shared + k  # g
    h = (k + 1) + peek(shared) * shared  # h
    i = ahead(w) * 2 - k  # i
    j = k - later(w)  # j
    o = far(w) * near(w) + next(every)  # o
    q = tree_reduce(lambda n, x: n + norm(x) * x, cache, 0.0)  # q
    v = tree_reduce(lambda n, x: n + norm(x) * x, dict(j=w, **cache), 0.0)  # v
    u, t = (norm(x) * x for x in (k, w))  # u
    return (a * b * c * d * e + s + inner(s) + r + y + g + h + i + j + o + q * v * u * t).sum()
"""
LINES = [
    ("a", "k = k * 2"), ("b", "k = k * 2"), ("c", "k = k * 2"), ("d", "k = k * 2"), ("e", "k = k * 2"),
    ("b", 'cache["k"] = cache["k"] * 2'), ("e", 'cache["k"] = k - 1'), ("c", "held.k = held.k * 2"),
    ("b", "held.k = held.k * 2"), ("c", "keep[0] = keep[0] * 2"), ("a", "k = held.k.sum(keepdims=True)"),
    ("s", "k = k * 2"), ("s", "k *= 2"), ("r", "k = k * 2"), ("r", "held.k = held.k * 2"),
    ("y", 'cache["k"] = cache["k"] * 2'), ("y", "k = k * 2"),
    ("s", "copied *= 2"), ("s", "copied[0] = 5"), ("s", "k = k.astype(mx.bfloat16)"), ("in inner", "x = x * 2"),
    ("h", "shared = shared * 2"), ("g", "k = k * 2"), ("h", "shared *= 2"), ("h", "k = k * 2"),
    ("b", "k *= 2"), ("c", "k[0] = 5"), ("d", 'cache["k"] *= 2'), ("in norm", "x = x * 2"), ("in norm", "x *= 2"),
    ("in ahead", "k = k * 2"), ("in later", "k = k * 2"), ("in grow", "t = t * 2"), ("o", "k = k * 2"),
    ("q", 'cache["k"] = cache["k"] - 1'), ("q", "k = k - 1"),
    ("v", 'cache["k"] = cache["k"] - 1'), ("u", "k = k - 1"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "line"), LINES, ids=map(" ".join, LINES))
def test_who_sees_it(place: str, line: str, tmp_path: Path) -> None:
    written = line if not place.startswith("in ") else f"if not once: once.append(1); {line}"
    hold_against_twin(PROGRAM, place, line, tmp_path, written)


COMPILED = """\
import functools
import mlx.core as mx
cache, calls = {"k": None}, []
def mixed(x, k):
    z = x * k
    return z + cache["k"]
def kept():
    return cache["k"]
@functools.partial(mx.compile, inputs=cache)
def step(x):
    k = cache["k"]
    a = k
    box = {"k": k, "l": [k]}
    h = x + 1  # here
    b = k
    y = mixed(h, k) + a * 0.5 + b + box["k"] * box["l"][0] - kept() * 0.25
    return (y * cache["k"] + mx.maximum(k, a) * k.sum()) * 0.1
def f(x):
    cache["k"] = mx.sin(x) + 1.5
    for _ in range(3):
        x = step(x)
    return x
"""


@pytest.mark.parametrize(
    "line",
    ["k = k * 2", "k *= 2", "k[0] = 3", "h = h * 1", "k = mx.sin(k)", 'box["k"] = k * 2', 'box["l"][0] = k - 1'],
)
def test_who_sees_it_where_a_compiled_function_is_repeated(line: str, tmp_path: Path) -> None:
    """In its third call, in which no Python runs."""
    program = loaded(tmp_path / f"compiled_{abs(hash(line))}.py", COMPILED)
    place = "    b = k\n" if line.startswith("h") else "    h = x + 1"
    written = f"    calls.append(1)\n    if len(calls) == 3: {line}\n{place}"
    twin = loaded(
        tmp_path / "twin.py",
        COMPILED.replace("@functools.partial(mx.compile, inputs=cache)\n", "").replace(place, written),
    )
    x = mx.array([0.25, 0.5])
    expected = twin.f(x)
    session = OpenSession(nnrepl.trace(program.f, x))
    number = next(at for at, text in enumerate(COMPILED.splitlines(), 1) if text.endswith("# here"))
    op = [op for op in session.tape.ops if op.source.line == number][2]
    session.run(f"goto {op.label}")
    if line.startswith("h"):
        session.run("step")
    session.run(line)
    assert_same_bits(expected, session.tape.ops[-1].outputs[0].array)


GIVEN = """\
import mlx.core as mx
calls = []
def forward(p, x):
    k = p["a"][0]
    y = x @ k  # here
    return y
def loss(p, v, x):
    return forward(p, x).square().mean() + (v * x).sum()
@mx.compile
def step(p, v, x):
    first = p["a"][0]
    value, (grads, more) = mx.value_and_grad(loss, argnums=(0, 1))(p, v, x)
    return value, more + v, p["a"][0] - 0.1 * grads["a"][0], first * 2, x + 1
def f(x):
    k, v, given = mx.array([[1.0, 2.0], [3.0, 4.0]]), mx.array([0.5, 2.0]), []
    for _ in range(3):
        given += step({"a": [k]}, v, x)
        k = given[-3]
    return mx.concatenate([part.flatten() for part in given])
"""


@pytest.mark.parametrize("line", ["k = k * 2", "k *= 2", "k[0] = 3", "x = x * 2", "x *= 2", "x[0] = 3"])
def test_who_sees_it_of_what_a_compiled_function_is_given(line: str, tmp_path: Path) -> None:
    """In its second call: what it was given outside, and the calls after it, have nothing of that."""
    program = loaded(tmp_path / f"given_{abs(hash(line))}.py", GIVEN)
    written = f"    calls.append(1)\n    if len(calls) == 2: {line}\n    y = x"
    twin = loaded(tmp_path / "twin.py", GIVEN.replace("@mx.compile\n", "").replace("    y = x", written))
    x = mx.array([[1.0, 0.5], [0.25, -1.0]])
    expected = twin.f(x + 0)
    session = OpenSession(nnrepl.trace(program.f, x))
    number = next(at for at, text in enumerate(GIVEN.splitlines(), 1) if text.endswith("# here"))
    op = [op for op in session.tape.ops if op.source.line == number and op.of is None][1]
    session.run(f"goto {op.label}")
    session.run(line)
    assert_same_bits(expected, session.tape.ops[-1].outputs[0].array)


TWICE = """\
import mlx.core as mx
def f(w):
    def outer(a, b):
        c = a
        def block(p, q):
            k = p
            d = {"k": p}
            u = p * 1  # u
            q *= 2
            return p * q * u + k * k * d["k"]  # return
        return mx.checkpoint(block)(a, a) * c + b
    def shared(a):
        b = a
        v = b * b  # v
        b *= 2
        return v * a * b
    return (mx.checkpoint(outer)(w, w) + mx.checkpoint(mx.custom_function(shared))(w)).sum()
"""


@pytest.mark.parametrize(
    "line", ["p = p * 3", "p *= 3", "p[0] *= 3", "q = q * 3", "k = k * 2", "k *= 3", 'd["k"] = d["k"] * 2']
)
@pytest.mark.parametrize("place", ["u", "return"])
def test_who_sees_it_in_the_second_run_of_a_block(place: str, line: str, tmp_path: Path) -> None:
    """One tensor that has come in as two arguments, and under two names, is each of them by itself."""
    hold_against_twin(TWICE, place, line, tmp_path)


@pytest.mark.parametrize("line", ["a = a * 3", "b = b * 3", "b *= 3", "a[0] = 2"])
def test_two_names_of_one_object_part_before_it_is_changed_in_place(line: str, tmp_path: Path) -> None:
    hold_against_twin(TWICE, "v", line, tmp_path)


def hold_against_twin(source: str, place: str, line: str, tmp_path: Path, written: str = "") -> None:
    """Type a line where the source has a place marked, and hold what follows against a twin with it (or with what is
    `written` instead) there."""
    program = loaded(tmp_path / f"plain_{abs(hash((place, line)))}.py", source)
    number = next(at for at, text in enumerate(source.splitlines(), 1) if text.endswith(f"# {place}"))
    text = source.splitlines()[number - 1]
    margin = text[: len(text) - len(text.lstrip())]
    twin = loaded(tmp_path / "twin.py", source.replace(text, f"{margin}{written or line}\n{text}"))
    w = mx.array([1.0, 2.0])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    session.run(f"goto {Path(program.__file__).name}:{number}")
    session.run(line)
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))


PARTED = """\
import mlx.core as mx
def f(w):
    g = w * 1
    def inner(p, q):
        u = p * 1
        q += 2
        p *= 2
        return p + q * q * u
    return mx.checkpoint(lambda r: r * r)(inner(*[g, g])).sum()
w = mx.array([0.1, 0.2])
for i in range(3):
    loss, gradient = mx.value_and_grad(f)(w)
    w = w - 0.001 * gradient
    print("step", i, loss.item(), w.tolist())
"""


def test_what_is_new_since_two_names_have_parted_is_new_in_a_checkpoints_second_run_as_well(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PARTED)
    written = PARTED.replace("        u =", "        if i == 1: p = p * 3\n        u =")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(written, {})
    lines = ["continue", "goto step 2 program.py:5", "p = p * 3", "continue", "q", "y", ""]
    said = nnrepl_cli("--plain", str(tmp_path / "program.py"), stdin="\n".join(lines)).stdout
    assert re.findall(r"step [12] -?\d.*", said.split("p = p * 3")[1]) == printed.getvalue().splitlines()[1:]


OWN_VJP = """\
import mlx.core as mx
def f(w):
    def block(a):
        product = mx.custom_function(lambda p, q: p * q)
        @product.vjp
        def back(primals, c, o):
            p, q = primals
            u = c * 1  # u
            return u * q + p, u * p + o
        return product(a, a + 1) * a
    return mx.checkpoint(block)(w * 1).sum()
"""


@pytest.mark.parametrize("line", ["o = o * 3", "p = p * 3", "p *= 3", "q[0] = 7", "c = c * 2"])
def test_a_line_of_a_custom_functions_own_vjp_runs_once_in_a_block_that_runs_twice(line: str, tmp_path: Path) -> None:
    hold_against_twin(OWN_VJP, "u", line, tmp_path)


COMPILED_TWICE = """\
import mlx.core as mx
calls = []
def loss(x):
    def block(p, q):
        k = p
        u = p * 1  # u
        q *= 2
        return p * q * u + k * k * k
    return (mx.checkpoint(block)(x, x) * x).sum()
@mx.compile
def step(x):
    return x - 0.01 * mx.grad(loss)(x)
def f(x):
    for _ in range(3):
        x = step(x)
        calls.append(x)
    return x
"""


@pytest.mark.parametrize("line", ["p = p * 3", "p *= 3", "q[0] = 3", "k = k * 2"])
def test_who_sees_it_in_a_block_of_a_compiled_function_that_is_repeated(line: str, tmp_path: Path) -> None:
    program = loaded(tmp_path / f"compiled_{abs(hash(line))}.py", COMPILED_TWICE)
    place = "        u = p * 1  # u"
    written = COMPILED_TWICE.replace(place, f"        if len(calls) == 2: {line}\n{place}").replace("@mx.compile\n", "")
    x = mx.array([0.25, 0.5])
    session = OpenSession(nnrepl.trace(program.f, x))
    number = next(at for at, text in enumerate(COMPILED_TWICE.splitlines(), 1) if text.endswith("# u"))
    op = [op for op in session.tape.ops if op.source.line == number and op.name == "multiply" and op.of is None][4]
    session.run(f"goto {op.label}")
    session.run(line)
    assert_same_bits(loaded(tmp_path / "twin.py", written).f(x), session.tape.ops[-1].outputs[0].array)


IN_THE_MIDDLE = """\
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
def after(t):
    return t + 1
def f(p):
    u = p["b"] + 0
    return (p["a"] * u).sum()
w = {"a": mx.array([1.0, 2.0]), "b": mx.array([3.0, 4.0])}
for i in range(4):
    loss, g = mx.value_and_grad(f)(w)
    print("step", i, loss.item(), [np.array(v.astype(mx.float32)).sum() for _, v in tree_flatten(g)])
    norm = mx.sqrt(sum((v * v).sum() for _, v in tree_flatten(g)))
    w = {k: w[k] - 0.1 * g[k] for k in w}
    mx.eval(w, norm)
kept = {"k": norm}
print("last", norm.item(), mx.multiply(norm, after(kept["k"])).item(), kept["k"].item())
"""


def test_edits_in_the_middle_of_an_expression_and_of_what_a_gradient_call_is_given(tmp_path: Path) -> None:
    (tmp_path / "middle.py").write_text(IN_THE_MIDDLE)
    first, last, given = 'g["b"] = g["b"] * 3', 'kept["k"] = kept["k"] * 10', 'p["a"] = p["a"] * 3'
    written = IN_THE_MIDDLE.replace('print("last"', f'{last}\nprint("last"').replace(
        "    return (p", f"    if i == 1: {given}\n    return (p"
    )
    written = written.replace("    norm", f"    if i == 1: {first}\n    norm")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(written, {})
    lines = ["continue", "goto step 2", "until middle.py:8", given, "until middle.py:13", first]
    lines += ["continue", "goto step 3", "p i", "goto middle.py:5", last, "continue"]
    said = nnrepl_cli("--plain", str(tmp_path / "middle.py"), stdin="\n".join([*lines, "q", "y", ""])).stdout
    assert "\ni = 2\n" in said, said
    assert said.rindex(printed.getvalue().splitlines()[-1]) > said.rindex("until"), said


HANDED = """\
import mlx.core as mx
import mlx.nn as nn
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = mx.array([1.0, 2.0])
    def __call__(self, x):
        return mx.tanh(x * self.w)
def run():
    net = Block()
    def block(given, x):
        net.update(given)
        return net(x)
    def loss(net):
        return mx.checkpoint(block)(net.trainable_parameters(), mx.array([1.0, 1.5])).sum()
    for i in range(3):
        found, gradients = nn.value_and_grad(net, loss)(net)
        net.w = net.w - 0.1 * gradients["w"]
    return found, net.w
"""


def test_what_a_second_run_has_left_in_a_module_is_what_is_changed_after_it(tmp_path: Path) -> None:
    line, place = "net.w = net.w * 3", "        net.w = net.w - 0.1"
    twin = loaded(tmp_path / "handed_twin.py", HANDED.replace(place, f"        if i == 1: {line}\n{place}"))
    session = OpenSession(nnrepl.trace(loaded(tmp_path / "handed.py", HANDED).run))
    op = [op for op in session.tape.ops if op.source.line == 18 and op.of is None][2]
    session.run(f"goto {op.label}")
    session.run(line)
    pass_ = session.tape.passes[-2]
    assert pass_.loss is not None
    assert_same_bits(twin.run(), (pass_.loss.array, session.tape.ops[-1].outputs[0].array))


HANDED_ON = """\
import functools
import mlx.core as mx
@functools.cache
def once(n):
    return mx.arange(n) + 0.5
@functools.lru_cache(8)
def often(n):
    return mx.arange(n) + 1.5
k, store = mx.array([2.0, 3.0]), {"h": mx.array([5.0, 7.0])}
def kept():
    return store["h"]
def g(t):
    return t + 1  # in g
def f(p, c):
    h, m, q = store["h"], once(2), often(2)
    early = h * p
    v = early + kept() * 0.5  # v
    u = v + g(c["k"])  # u
    return (u * p * c["k"] * h * early * m * q).sum() + store["h"].sum() + (once(2) * often(2)).sum()
def run():
    c, before = {"k": k}, k + 1
    loss, gradient = mx.value_and_grad(f)(k, c)  # call
    return loss * 100 + gradient.sum() * 10 + k.sum() + c["k"].sum() + before.sum() + store["h"].sum()
"""


@pytest.mark.parametrize(
    ("place", "line", "written"),
    [
        ("u", "p = p * 10", ("u", "p = p * 10")),
        ("u", "h = h * 10", ("u", "h = h * 10")),
        ("v", "h = h * 10", ("v", "h = h * 10")),
        ("v", "m = m * 10", ("v", "m = m * 10")),
        ("v", "q = q * 10", ("v", "q = q * 10")),
        ("in g", "k = k * 10", ("in g", "global k; k = k * 10")),
        ("u", 'c["k"] = c["k"] * 10', ("call", 'c["k"] = c["k"] * 10')),
    ],
)
def test_what_a_gradient_call_is_given_by_other_names(
    place: str, line: str, written: tuple[str, str], tmp_path: Path
) -> None:
    """A variable of the function changes there, and alone; a container's entry where it enters."""
    at = {text.rpartition("# ")[2]: text for text in HANDED_ON.splitlines() if "  # " in text}
    before, text = written[1], at[written[0]]
    twin = HANDED_ON.replace(text, f"{text[: len(text) - len(text.lstrip())]}{before}\n{text}")
    number = HANDED_ON.splitlines().index(at[place]) + 1
    session = OpenSession(nnrepl.trace(loaded(tmp_path / f"on_{abs(hash(line))}.py", HANDED_ON).run))
    session.run(f"goto on_{abs(hash(line))}.py:{number}")
    session.run(line)
    assert_same_bits(loaded(tmp_path / "on_twin.py", twin).run(), session.tape.ops[-1].outputs[0].array)


GLOBAL = """\
import mlx.core as mx
P, Q = {"w": mx.array([2.0, 3.0])}, [mx.array([5.0, 7.0])]
def f(p, q):
    u = p["w"] * 2
    return (u * q[0] * p["w"]).sum()  # u
def passed(p, q):
    loss, (g, h) = mx.value_and_grad(f, argnums=(0, 1))(p, q)  # call
    return loss * 100 + g["w"].sum() * 10 + h[0].sum() + p["w"].sum() + q[0].sum()
def run():
    return passed(P, Q)
compiled = mx.compile(passed)
def again():
    return [compiled(P, Q), compiled(P, Q)][1]
"""
IN_ENTRIES = ['p["w"] = p["w"] * 10', "q[0] = q[0] * 10", 'p["w"] *= 10']


@pytest.mark.parametrize("line", IN_ENTRIES)
@pytest.mark.parametrize("place", ["u", "call"])
def test_an_entry_of_what_a_gradient_call_is_given(place: str, line: str, tmp_path: Path) -> None:
    """It stands where the user stands: in the function, or before the gradient call, which is given it then."""
    number, text = next((at, text) for at, text in enumerate(GLOBAL.splitlines(), 1) if text.endswith(f"# {place}"))
    expected = loaded(tmp_path / "twin.py", GLOBAL.replace(text, f"    {line}\n{text}")).run()
    program = loaded(tmp_path / f"global_{abs(hash((line, place)))}.py", GLOBAL)
    session = OpenSession(nnrepl.trace(program.run))
    session.run(f"goto {Path(program.__file__).name}:{number}")
    session.run(line)
    assert_same_bits(expected, session.tape.ops[-1].outputs[0].array)
    if place == "call":  # in a call that is repeated: nothing but the op before tells of the line
        session = OpenSession(nnrepl.trace(program.again))
        session.run(f"goto {Path(program.__file__).name}:{number}")
        session.run(f"until {Path(program.__file__).name}:{number}")
        session.run(line)
        assert_same_bits(expected, session.tape.ops[-1].outputs[0].array)
