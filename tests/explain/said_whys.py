"""Programs for what `why` says of one tensor: each kind of its sentences is so in one of them, and not in another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

import nnrepl
from nnrepl.explain.why import why
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import Hole
from tests.explain.programs import four_steps
from tests.support import OpenSession

W = mx.array([[0.5, -1.0, 2.0], [2.0, 0.25, 1.0], [-0.75, 1.5, 0.3]])
X = mx.array([[1.0, -0.5], [0.25, 2.0], [-1.5, 0.75], [0.5, 1.0]])
NAN, INF = float("nan"), float("inf")
Fn = Callable[..., mx.array]
Program = Callable[[Path], str]


def told(session: TapeSession, *questions: str) -> str:
    """All that `why` says, in a line."""
    said: list[str] = []
    for question in questions:
        try:
            answer = why(session, question)
        except UserError as error:
            said.append(str(error))
            continue
        said += [answer.headline, *answer.reasons, *answer.also, answer.advice]
    return " ".join(" ".join(said).replace("−", "-").split())


def asked(fn: Fn, *questions: str, of: Any = W, wrt: Any = 0) -> Program:
    """Trace a function of one tensor (or several), and ask."""
    args = of if isinstance(of, tuple) else (of,)
    return lambda folder: told(OpenSession(nnrepl.trace(fn, *args, wrt=wrt)), *questions)


def recorded(run: Callable[[], object], *questions: str, at: int | None = None) -> Program:
    """Record what runs, whatever it raises, and ask at the end, or where a gradient pass begins."""

    def program(folder: Path) -> str:
        with nnrepl.recording() as found:
            try:
                run()
            except (ValueError, TypeError, ZeroDivisionError, IndexError):
                pass
        session = TapeSession(found.tape, found.names)
        session.cursor = len(found.tape) if at is None else found.tape.passes[at].start
        return told(session, *questions)

    return program


def attention(q: mx.array, k: mx.array, v: mx.array, **more: Any) -> mx.array:
    out = mx.fast.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None], scale=1.0, **more)
    return (out * mx.arange(v.shape[-1])).sum()


# -- zeros, and sizes ----------------------------------------------------------------------------------------------


def seeded(first: float, second: float) -> Callable[[], object]:
    def run() -> object:
        return mx.vjp(lambda w, x: (w * 2, x * 3), [W, X], [mx.full(W.shape, first), mx.full(X.shape, second)])

    return run


def deep(of: mx.array, times: int, factor: float, curve: Callable[[mx.array], mx.array] = lambda x: x) -> mx.array:
    x = of
    for _ in range(times):
        x = curve(x * factor)
    return x.sum()


def layered(x: mx.array, weight: mx.array) -> mx.array:
    for _ in range(12):
        x = x @ weight
    return x.sum()


def shifted(w: mx.array) -> mx.array:
    y = mx.sin(mx.arange(150)).reshape(50, 3) + w
    return ((y - y.mean(axis=0, keepdims=True)) ** 3).sum()


def halves(a: mx.array, b: mx.array) -> mx.array:
    return (mx.maximum(a - 100, 0) * b).sum() + mx.minimum(a + 100, 0).sum() + (b * 0).sum()


def two_reasons(a: mx.array, b: mx.array) -> mx.array:
    return mx.maximum(a - 100, 0).sum() + mx.floor(b).sum()


def same_reason(a: mx.array, b: mx.array) -> mx.array:
    return mx.maximum(a * b - 100, 0).sum()


class Silent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.last.weight = mx.zeros((3, 3))

    def __call__(self, x: mx.array) -> mx.array:
        return self.last(self.first(x))


def silent_model(folder: Path) -> str:
    model = Silent()
    return told(OpenSession(nnrepl.trace(lambda x: model(x).sum(), W, wrt=model)), "grad(first.weight)")


def zeroed() -> None:
    """A weight that is made 0 between two passes."""
    model = Silent()
    model.last.weight = mx.ones((3, 3))
    for _ in range(2):
        mx.eval(nn.value_and_grad(model, lambda x: model(x).sum())(W))
        model.last.weight = model.last.weight * 0


def nothing_left_over(w: mx.array) -> mx.array:
    half = mx.sin(W).astype(mx.float16)
    return (w * (half - half)).sum()


def chosen(w: mx.array) -> mx.array:
    none = mx.sin(W) * 0
    return (w * mx.where(mx.abs(W) > 1, none, none * 2)).sum()


def halved(w: mx.array) -> mx.array:
    small = w.astype(mx.float16) * 1e-4
    return (w * (small * (small * 1e-3))).sum()


@mx.custom_function
def mute(w: mx.array) -> mx.array:
    return mx.sin(w)


@mute.vjp
def _mute(w: mx.array, g: mx.array, out: mx.array) -> mx.array:
    return g * 0


def cancelling(w: mx.array) -> mx.array:
    a = w * 2
    return mx.sin(a).sum() - mx.sin(a).sum()


def along(w: mx.array) -> mx.array:
    """The way along itself, of what is as long as 1: it is taken off again."""
    q = mx.array([[1.0, 0, 0]] * 3) * (w / w)
    return (q / mx.sqrt(mx.sum(q * q, axis=-1, keepdims=True)))[:, 0].sum()


def repeated(w: mx.array) -> mx.array:
    rows = mx.sign(mx.abs(w) + 1)
    return ((rows - rows[:1]) * w).sum()


RIGHT = mx.array([0, 0, 0, 1, 1, 1.0])
MADE: list[Program] = [
    asked(lambda w: ((mx.concatenate([w * 2, W], axis=1) * (RIGHT * 2)) ** 2).sum(), "grad(w)"),
    asked(lambda w: (w * mx.array([0.0, 0.0, 0.0])).sum(), "grad(w)"),
    asked(lambda w: (w * (W - W)).sum(), "grad(w)", "#1 == 0"),
    asked(halved, "#5 == 0", "#4 == 0", "#3 == 0"),
    asked(lambda w: (w * (1 / mx.exp(W * 0 + 1000))).sum(), "grad(w)"),
    asked(lambda w: (w * mx.grad(lambda v: (mx.floor(v) * v).sum() - (mx.floor(v) * v).sum())(W)).sum(), "grad(w)"),
    asked(lambda w: (w * mx.grad(lambda v: mx.floor(v).sum())(W)).sum(), "grad(w)"),
    asked(lambda w: mx.fast.layer_norm(w, None, None, 0.0).sum(), "grad(w)", of=mx.array([[1.0, -1.0], [2.0, -2.0]])),
    asked(lambda w: (w * (1 - mx.sign(mx.abs(W) + 1))).sum(), "grad(w)"),
    asked(lambda w: (w * mx.where(mx.abs(W) > 100, W, 0)).sum(), "grad(w)"),
    asked(lambda w: mute(w * 2).sum(), "grad(w)"), asked(lambda w: mute(w).sum(), "grad(w)"),
    silent_model,
    asked(cancelling, "grad(w)", "grad(a)"), asked(along, "grad(q)"),
    asked(lambda w: (w * mx.fast.layer_norm(mx.ones((3, 3)) * 2, None, None, 1e-5)).sum(), "grad(w)"),
    asked(repeated, "grad(w)", "#5 == 0", "#4 == 0"),
    recorded(zeroed, "grad(first.weight)"),
    asked(lambda w: mx.imag(mx.fft.rfft(w)[:, :1]).sum(), "grad(w)"),
    asked(lambda w: (w * (W / mx.exp(W * 0 + 1000))).sum(), "grad(w)"),
    asked(nothing_left_over, "grad(w)"), asked(chosen, "grad(w)"),
    asked(lambda w: (w * mx.zeros((3,))).sum(), "grad(w)"),
]  # fmt: skip

ZEROS: list[Program] = [
    asked(lambda w: mx.sin(w * 2).sum(), "grad(w) == 0", "grad(w)", "#1 == 0", "w", "w is huge", "grad(w) is none",
          "w is none", "grad(w) is tiny", ""),
    asked(lambda w: (mx.maximum(w - 100, 0) + mx.where(w > 100, w, 0)).sum(), "grad(w)", "#2 == 0", "#2"),
    recorded(seeded(0.0, 0.0), "grad(w)"),
    recorded(seeded(0.0, 1.0), "grad(w)", ""),
    asked(two_reasons, "grad(a)", of=(W, W), wrt=(0, 1)),
    asked(same_reason, "grad(a)", of=(W, W), wrt=(0, 1)),
    asked(lambda a, b: (mx.maximum(a - 100, 0) + b).sum(), "grad(a)", of=(W, W), wrt=(0, 1)),
    asked(lambda a, b: (a @ b).sum(), "grad(a)", "", of=(W, W * 0), wrt=(0, 1)),
    asked(lambda w: w[:0].sum(), "w[:0]", "#1", "grad(w)", "grad(#1)", ""),
    asked(lambda w: (w * 2).sum(), "w", "grad(w)", "", of=mx.zeros((0, 3))),
    asked(lambda w: deep(w, 12, 0.05), "grad(w) is tiny"),
    asked(lambda w: deep(w, 12, 9.0), "grad(w) is huge"),
    asked(lambda w: deep(w, 14, 1.0, mx.sigmoid), "grad(w) is tiny"),
    asked(shifted, "grad(w) is tiny", of=mx.array([0.1, 0.2, 0.3])),
    asked(layered, "grad(x) is tiny", of=(W, mx.eye(3) * 0.05), wrt=(0, 1)),
    asked(layered, "grad(x) is huge", of=(W, mx.eye(3) * 20), wrt=(0, 1)),
    asked(lambda w: mx.sigmoid(mx.exp(w * 20)).sum(), "grad(w)", of=mx.abs(W)),
    asked(lambda w: mx.sigmoid(w).sum(), "grad(w)", of=W * 0 + 400),
    asked(lambda q: attention(q, W, mx.ones((3, 3)) + mx.arange(3)), "grad(q) is tiny"),
    asked(lambda w: mx.sin(w).sum(), "w is none", "grad(w)", "", wrt=None),
    recorded(lambda: None, ""),
]  # fmt: skip

# -- NaN and ∞ -----------------------------------------------------------------------------------------------------


def steps(*data: mx.array, fn: Fn = lambda w, x: mx.log(w * x).sum()) -> Callable[[], object]:
    def run() -> None:
        call = mx.value_and_grad(fn)
        for x in data:
            mx.eval(call(mx.array([1.0, 2.0]), x))

    return run


def climbing() -> None:
    """A loss that leaps, and then overflows."""
    model, optimizer = nn.Linear(1, 1), optim.SGD(1e-9)
    for scale in (1.0, 1.0, 1.0, 80.0, 120.0):
        x = mx.array([[scale]])
        loss, grads = nn.value_and_grad(model, lambda m: mx.exp(mx.abs(m.weight) * 0 + x).sum())(model)  # noqa: B023
        optimizer.update(model, grads)
        mx.eval(loss, model.parameters())


GOOD, BAD = mx.array([1.0, 2.0]), mx.array([-1.0, 2.0])
NONE = mx.array([[1.0, -INF], [-INF, -INF]])


def by_hand(x: mx.array) -> mx.array:
    z = x + NONE
    return (z - mx.max(z, axis=-1, keepdims=True)).sum()


def over(run: Fn, x: Any, *questions: str) -> Program:
    return asked(run, *(questions or ("nan",)), of=mx.array(x) if not isinstance(x, mx.array) else x)


NUMBERS: list[Program] = [
    over(lambda x: mx.sqrt(x).sum(), [-1.0, 4.0], "inf", "nan", "#1 is inf", "#1 is nan", "#1 == 0", "#1 is tiny",
         "x is nan"),
    over(lambda x: mx.sqrt(x).sum(), [-1.0], "#1 is tiny", "#1 == 0"),
    recorded(steps(GOOD, BAD, GOOD), "nan"),
    recorded(steps(GOOD, BAD, BAD), "nan"),
    recorded(steps(BAD, GOOD, BAD), "nan"),
    recorded(steps(BAD), "nan"),
    recorded(climbing, "inf"),
    over(lambda x: (mx.exp(x) - mx.exp(x)).sum(), [1.0, 100.0]),
    over(lambda x: (mx.where(x > 0, INF, x) * 0).sum(), [1.0, -1.0]),
    over(lambda x: (mx.log(x) * 0).sum(), [0.0, 1.0]),
    over(lambda x: (x * 2).sum(), [NAN, 1.0]),
    asked(lambda x: (x * mx.array([1.0, NAN])).sum(), "nan", of=GOOD),
    over(lambda x: (1 / mx.exp(x)).sum() * 0 + mx.sum(mx.sin(mx.array([1.0]))), [100.0, 1.0], "inf", ""),
    over(lambda x: (1 / (1 / mx.stop_gradient(x))).sum() + x.sum(), [0.0, 1.0], "inf"),
    over(lambda x: (x + INF).sum(), [0.0, 1.0], "inf"),
    over(lambda x: (mx.softmax(x + NONE, axis=-1) ** 2).sum(), [[1.0, 2.0], [1.0, 1.0]]),
    over(by_hand, [[1.0, 2.0], [1.0, 1.0]]),
    over(lambda x: mx.softmax(mx.exp(x), axis=-1).sum(), [[100.0, 2.0], [1.0, 1.0]]),
    over(lambda x: mx.softmax(mx.where(x > 50, INF, x), axis=-1).sum(), [[100.0, 2.0], [1.0, 1.0]]),
    over(lambda x: x[:0].mean() + x.sum(), [1.0, 2.0]),
    over(lambda x: attention(x, W[:2, :2], W[:2, :2], mask=NONE), X[:2]),
    over(lambda x: attention(x * 300, x * 300, x, mask=None).astype(mx.float32), X[:2].astype(mx.float16)),
    over(lambda x: (x * 60000).sum(), mx.array([1.0, 2.0], mx.float16), "inf"),
    over(lambda x: (x.astype(mx.float16)).sum().astype(mx.float32), [1e6, 2.0], "inf"),
    over(lambda x: mx.exp(x * 1000).sum(), [1.0, 2.0], "inf"),
    over(lambda x: mx.sqrt(x * 0).sum(), [1.0, 2.0]),
    over(lambda x: mx.sqrt(x).sum(), [0.0, 1.0], "nan", "inf"),
    over(lambda x: (x / mx.maximum(x - 9, 0)).sum(), [1.0, 2.0]),
    over(lambda x: mx.log(x + 0.5).sum(), [1.0, 2.0], "", "nan"),
]  # fmt: skip


# -- missing gradients ---------------------------------------------------------------------------------------------


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.frozen, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.cut, self.aside = mx.ones((3,)), mx.ones((3,))
        self.frozen.freeze()

    def __call__(self, x: mx.array, scale: mx.array) -> mx.array:
        _ = mx.sin(self.aside)
        return self.frozen(mx.tanh(self.main(x))) * scale + mx.stop_gradient(self.cut * 2)


def parts(*questions: str) -> Program:
    def program(folder: Path) -> str:
        model = Parts()
        return told(OpenSession(nnrepl.trace(lambda x, scale: model(x, scale).sum(), W, mx.ones((3,)), wrt=model)),
                    *questions)  # fmt: skip

    return program


def holed(folder: Path) -> str:
    """A tensor that came from where nothing was recorded."""
    model = Parts()
    session = OpenSession(nnrepl.trace(lambda x, scale: model(x, scale).sum(), W, mx.ones((3,)), wrt=model))
    session.tape.holes.append(Hole(session.tape.ops[0].outputs[0], 0, "it came from nowhere"))
    return told(session, "grad(aside)")


def edited_session(line: str) -> OpenSession:
    session = OpenSession(nnrepl.trace(lambda w: mx.sin(w * 2).sum(), W, wrt=0))
    session.run("goto #2")
    session.run(line)
    return session


def edited(folder: Path) -> str:
    return told(edited_session("#1 = mx.ones((3, 3))"), "grad(w)")


@mx.custom_function
def own(w: mx.array) -> mx.array:
    inner = mx.sin(w)
    return inner * 2


@own.vjp
def _own(w: mx.array, g: mx.array, out: mx.array) -> mx.array:
    return g * 2 * mx.cos(w)


def twins(second: bool) -> Callable[[], object]:
    """Two models of one class, of which one is used, and the other differentiated."""

    def run() -> None:
        student, teacher = nn.Linear(3, 3), nn.Linear(3, 3)
        used = student if second else teacher
        nn.value_and_grad(student, lambda x: used(x).sum())(W)

    return run


def failing(x: mx.array) -> mx.array:
    y = x * 2
    raise ZeroDivisionError("no more")
    return y


def outside() -> None:
    w = mx.array([1.0, 2.0])
    mx.eval(mx.sin(w))
    mx.grad(lambda v: (v * 2).sum())(mx.array([1.0, 2.0]))


def unused_and_outside() -> None:
    model = nn.Linear(3, 3)
    mx.eval(mx.sin(model.bias))
    nn.value_and_grad(model, lambda x: (x @ model.weight).sum())(W)


def nested(w: mx.array) -> mx.array:
    return mx.vmap(lambda row: (mx.sin(row) * 2).sum())(w).sum() + mx.grad(
        lambda v: (v * v).sum() + mx.stop_gradient(mx.floor(v * 3)).sum())(w).sum()  # fmt: skip


def lost(folder: Path) -> str:
    """A gradient that a fault of nnrepl's has lost."""
    session = OpenSession(nnrepl.trace(lambda w: mx.sin(w).sum(), W, wrt=0))
    session.tape.passes[0].grads.clear()
    return told(session, "grad(w)")


def namesakes() -> None:
    """A function that is given a `weight`, and takes another."""

    def outer() -> Callable[[mx.array], mx.array]:
        weight = mx.sin(W)
        return lambda given: (weight * 2).sum()

    other = outer()

    def loss(weight: mx.array) -> mx.array:
        return other(weight)

    mx.grad(loss)(W)


MISSING: list[Program] = [
    parts("grad(frozen.weight)", "grad(unused.weight)", "grad(scale)", "grad(cut)", "grad(aside)",
          "main.weight is none", ""),
    edited, holed,
    asked(lambda w: own(w).sum(), "grad(inner)"),
    asked(lambda w: mx.checkpoint(lambda v: (mx.sin(v) * 2).sum())(w), "grad(#1)", "grad(#2)", "grad(#3)"),
    recorded(twins(False), "grad(student.weight)"),
    recorded(twins(True), "grad(student.weight)"),
    recorded(lambda: mx.value_and_grad(failing)(W), "grad(x)", "error", "", "grad(y)"),
    recorded(outside, "grad(w)"),
    recorded(unused_and_outside, "grad(bias)"),
    lost, recorded(namesakes, "grad(weight)", at=-1),
    asked(nested, *(f"grad(#{n})" for n in range(1, 12))),
]  # fmt: skip


# -- what the loss became, and calls that fail ---------------------------------------------------------------------


def trained(rate: float, fn: Fn, weight: Any = W, data: Callable[[int], Any] = lambda step: X[:3, :1]) -> Program:
    def run() -> None:
        model = nn.Linear(1, 1)
        model.weight = mx.array(weight)
        optimizer, step = optim.SGD(rate), nn.value_and_grad(model, lambda m, x: fn(m.weight, x))
        for number in range(2):
            _, grads = step(model, data(number))
            optimizer.update(model, grads)
            mx.eval(model.parameters())

    def program(folder: Path) -> str:
        with nnrepl.recording() as found:
            run()
        session = TapeSession(found.tape, found.names)
        session.cursor = max(pass_.start for pass_ in found.tape.passes if pass_.kind == "gradient") + 1
        return told(session, "loss")

    return program


def twice(fn: Fn, *of: tuple[mx.array, ...]) -> Program:
    """Two gradient calls of a function, and no update between."""

    def program(folder: Path) -> str:
        with nnrepl.recording() as found:
            for given in of:
                mx.eval(mx.value_and_grad(fn)(*given))
        session = TapeSession(found.tape, found.names)
        session.cursor = found.tape.passes[-1].start + 1
        return told(session, "loss")

    return program


def rooted(w: mx.array) -> mx.array:
    return mx.sqrt(w).sum()


def square(w: mx.array, x: mx.array) -> mx.array:
    return mx.square(w * x.sum() - 1).sum()


def plain(w: mx.array) -> mx.array:
    return (mx.sin(w * 2) + mx.floor(w)).sum()


def changed(line: str, at: str = "#2", fn: Fn = plain) -> Program:
    def program(folder: Path) -> str:
        session = OpenSession(nnrepl.trace(fn, W, wrt=0))
        session.run(f"goto {at}")
        session.run(line)
        return told(session, "loss")

    return program


def shapes(run: Callable[..., Any], *of: tuple[int, ...]) -> Program:
    return recorded(lambda: run(*(mx.ones(shape) for shape in of)), "error")


LOSSES: list[Program] = [
    trained(1e-3, square), trained(50.0, square), trained(0.9, square), trained(1e-12, square), trained(0.45, square),
    trained(1e-3, square, data=lambda step: X[step : step + 3, :1]),
    trained(1e-3, lambda w, x: square(w, x[:2]) + x[2:].sum() * 1e-12, data=lambda step: X[:3, :1] + mx.array(
        [[0.0], [0.0], [float(step)]])),
    trained(1e-3, lambda w, x: mx.log(w * x).sum(), weight=-W),
    trained(1e-3, lambda w, x: mx.sqrt(w * x[:1] * 0).sum() + w.sum()),
    twice(rooted, (W * 0,), (W * 0,)), twice(rooted, (mx.array([0.0, 1.0]),), (mx.array([0.0, 2.0]),)),
    twice(lambda w, x: (w * x).sum(), (W, W), (W, W * 2)), twice(lambda w: mx.floor(w).sum(), (W,), (W + 1e-3,)),
    changed("#1 = #1 * 2"), changed("#1 = #1 * 2", "end"), changed("#3 = #3 + 1", "#4"),
    changed("#1 = ~#1", "#2", lambda w: mx.where(w > 0, w, 2 * w).sum()),
]  # fmt: skip

FAILED: list[Program] = [
    shapes(lambda a, b: a @ b, (5, 3), (4, 3)),
    shapes(lambda a, b: a @ b, (3, 5), (3, 4)),
    shapes(lambda a, b: a @ b, (3, 5), (2, 3)),
    shapes(lambda a, b: a @ b, (2, 3, 4), (12, 5)),
    shapes(lambda a, b: a @ b, (2, 4, 3), (3, 3, 5)),
    shapes(lambda a, b: a @ b, (2, 4, 3), (7, 5, 2)),
    shapes(lambda a, b: a @ b, (2, 4), ()),
    shapes(lambda a, b: a + b, (5, 3), (5,)),
    shapes(lambda a, b: a + b, (5,), (5, 3)),
    shapes(lambda a, b: a - b, (5, 3), (3, 5)),
    shapes(lambda a, b: a - b, (5, 3), (2, 5)),
    shapes(lambda a, b: mx.stack([a, b]), (2, 3), (3, 3)),
    shapes(lambda a, b: mx.concatenate([a, b]), (2, 3), (2, 4)),
    shapes(lambda a, b: mx.concatenate([a, b], axis=5), (2, 3), (2, 3)),
    shapes(lambda a: mx.reshape(a, (4, 2)), (2, 3)),
    shapes(lambda a: a + mx.array([1, 2]), (2, 3)),
]  # fmt: skip


def leapt(far: bool) -> str:
    """A loss that is huge for a step before it is NaN; or that is NaN at once."""

    def loss(w: mx.array, turn: int) -> mx.array:
        h = mx.sin(mx.arange(3.0)) * w
        h = h * 1e25 if far and turn >= 1 else h
        return mx.abs(h).mean() / (0 if turn == 3 else 1)

    session = OpenSession(four_steps(loss))
    session.run("goto end")
    answer = why(session, "nan")
    return " ".join(" ".join([answer.headline, *answer.reasons, *answer.also]).replace("−", "-").split())


WHYS: list[Program] = [
    lambda folder: leapt(True),
    lambda folder: leapt(False),
    *MADE,
    *ZEROS,
    *NUMBERS,
    *MISSING,
    *LOSSES,
    *FAILED,
]
