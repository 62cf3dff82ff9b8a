"""All mistakes: everything that is said of wrong numbers and wrong shapes, in four small programs, as a text.

`python -m tests.learn.test_all_mistakes` writes it anew; read the difference: whoever has typed the number before a
sentence must have gone wrong just so. `test_mistakes` works some of them out by hand.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

import nnrepl
from nnrepl.explain.look import Look
from nnrepl.explain.paths import value_of
from nnrepl.learn import rules as rules  # which enter themselves
from nnrepl.learn import wrong_products as wrong_products
from nnrepl.learn.asking import ask
from nnrepl.learn.mistakes import mistakes
from nnrepl.learn.wrong_shapes import reply_to_shape, shape_mistakes
from tests.support import OpenSession

WRITTEN = Path(__file__).with_name("all_mistakes.txt")
X = mx.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
W = mx.array([[0.5, -1.0], [0.25, 2.0]])
B = mx.array([0.5, -0.25])
Q = mx.arange(12, dtype=mx.float32).reshape(2, 2, 3)


def dense(w: mx.array, b: mx.array) -> mx.array:
    product = X @ w
    z = product + b
    a = mx.maximum(z, 0)
    error = a - 2.0
    squared = mx.square(error)
    return mx.mean(squared)


def shared(w: mx.array, b: mx.array) -> mx.array:
    z = mx.addmm(b, X, w.T)
    share = mx.softmax(z, axis=-1)
    surprise = -mx.log(share)
    scaled = surprise / 4.0
    rows = mx.sum(scaled, axis=1)
    kept = mx.mean(rows * 3.0, axis=0, keepdims=True)
    return mx.sum(kept)


def batched(q: mx.array, k: mx.array) -> mx.array:
    scores = q @ k
    outer = scores[:, :, :1] * k[:, :1, :]
    turned = mx.transpose(scores, (0, 2, 1)) - outer
    return mx.sum(turned * scores)


def narrow(w: mx.array) -> mx.array:
    row = X[:1] @ w
    column = mx.array([[1.0], [2.0], [3.0]])
    spread = row + column
    total = mx.sum(spread)
    return total * total


SHAPES = (((2, 3), (3,)), ((2, 3), (2, 4)), ((2, 3), (3, 2)), ((4,), (5,)), ((1,) * 8, (2, *(1,) * 6, 3)), ((), (1,)))


def told() -> str:
    lines = []
    programs = ((dense, (W, B)), (shared, (W, B)), (batched, (Q, Q.reshape(2, 3, 2) + 1)), (narrow, (W,)))
    for program, given in programs:
        session = OpenSession(nnrepl.trace(program, *given, wrt=tuple(range(len(given)))))
        session.goto("end")
        look = Look(session)
        forward = [op.outputs[0].name for op in session.tape.ops if op.phase == "forward"]
        named = [name for name in ("w", "b", "q", "k", *dict.fromkeys(forward)) if not name.startswith("#")]
        names = [name for name in named if session.lookup.is_known(name)]
        grads = session.tape.passes[-1].grads
        arrive = [name for name in names if grads.get(value_of(session, name).canonical)]
        for name in [*names, *(f"grad({name})" for name in arrive)]:
            found = ask(session, f"{name}.shape")
            lines.append(f"{program.__name__}: {name}.shape = {found.result}")
            shape = tuple(found.result)
            lines += [f"    {one.value}  {one.said}" for one in shape_mistakes(session, f"{name}.shape", shape)]
            at = ", ".join(str(extent - 1) for extent in shape)
            asked = f"{name}[{at}]" if at else name
            found = ask(session, asked)
            if found.value is not None and found.value.op is not None:
                lines.append(f"{program.__name__}: {asked} = {float(found.result):.5g}")
                known = mistakes(look, found.value, found.index)
                lines += [f"    {float(one.value):.5g}  {one.said}" for one in known]
    lines += [f"{given} for {shape}: {reply_to_shape(given, shape)}" for shape, given in SHAPES]
    return "\n".join(lines) + "\n"


def test_what_is_said_is_what_is_written() -> None:
    said = "python -m tests.learn.test_all_mistakes writes it anew"
    assert told() == WRITTEN.read_text(encoding="utf-8"), said


if __name__ == "__main__":
    WRITTEN.write_text(told(), encoding="utf-8")
