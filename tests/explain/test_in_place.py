"""In place: a line of source with values in it is the program: what is underlined gives what the op gives."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.explain.in_place import Piece
from nnrepl.seen.stop_facts import values_at
from tests.support import OpenSession, assert_same_bits


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = mx.array([2.0, 3.0])
        self.parts = [mx.array([1.0]), mx.array([4.0])]

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.w


MODEL = Scaled()


def helper(a: mx.array, k: int = 2) -> mx.array:
    return a * k + 1


def loss_fn(x: mx.array, y: mx.array) -> mx.array:
    h = MODEL(x) + MODEL(helper(x, k=3))
    s = sum([h, x, y])
    t = operator.matmul(s, x) + partial(mx.add, s)(y)[0]
    u = max(t.sum(), mx.array(1.0)) - abs(-t) ** 2
    parts = [mx.exp(p) * 2 for p in MODEL.parts]
    for i in range(2):
        u = u + parts[i].sum() * i if i else u - (lambda q: q * 2)(parts[i]).sum()
    z = (x + y) * (x - y) / 2 + x.T.reshape(-1, 2).sum(axis=0)[None][0]
    d = {"k": x}
    d["k"] = d["k"] + mx.where(x > 1, x, -x)
    v = x[0] * y[1:2] - x.shape[0] + len(parts)
    big = mx.outer(mx.arange(8.0), x)
    if (y + y).sum() > 1:
        u = u + 1
    權 = (y
         - x)  # fmt: skip
    return u + z.sum() + d["k"].sum() + v.sum() + big.sum() + 權.sum()


@pytest.fixture(scope="module")
def session() -> OpenSession:
    return OpenSession(nnrepl.trace(loss_fn, mx.array([1.0, 2.0]), mx.array([3.0, 4.0]), wrt=0))


def line_at(session: OpenSession, position: int) -> tuple[Piece, ...]:
    """The line of an op, where the op before it was gone over last."""
    ops = session.tape.ops
    session.goto(ops[position].label)
    return values_at(session, ops[position], ops[position - 1] if position else None, shapes=True)


def written(pieces: tuple[Piece, ...]) -> str:
    """A line as text."""
    return "".join(f"<{piece.text}>" if piece.is_fresh else piece.text for piece in pieces)


def test_what_is_underlined_gives_what_the_op_gives(session: OpenSession) -> None:
    """Each line is put together again with the tensors in it, and Python computes what is underlined."""
    held = 0
    for op in [op for op in session.tape.ops if op.phase == "forward"]:
        names: dict[str, Any] = {"mx": mx, "operator": operator, "partial": partial}
        text = ""
        for piece in line_at(session, op.position):
            if piece.is_next and piece.value is not None:
                names[f"v{len(names)}"] = piece.value.array
                text += f"v{len(names) - 1}"
            elif piece.is_next:
                text += piece.text
        if text.startswith(("sum(", "max(")) or "x.shape" in text or "len(" in text:
            continue  # Python's own sum is several ops, and its max another one
        assert_same_bits({text: eval(text, names)}, {text: op.outputs[0].array})
        held += 1
    assert held > 45


def test_the_lines(session: OpenSession) -> None:
    lines = [written(line_at(session, op.position)) for op in session.tape.ops if op.phase == "forward"]
    for line in (
        "h = [2 6] + <[8 21]>",  # what a module's call returned
        "u = max(97, 1) - abs(<−97>) ** 2",
        "mx.exp([4]) * 2",  # the second round of a comprehension
        "[5.4366] * 2",  # in a lambda
        "z = [4 6] * <[−2 −2]> / 2 + [1 2].T.reshape(-1, 2).sum(axis=0)[None][0]",
        "d['k'] = [1 2] + <[−1 2]>",
        "v = <[4]> - x.shape[0] + len(parts)",
        "big = mx.outer(<[0 1 2 3 4 5 6 7]>, [1 2])",
        "([3 4] + [3 4]).sum() > 1",  # of a block the expression
        "權 = [3 4] - [1 2]",
    ):
        assert line in lines, lines
    assert any("+ (8, 2).sum()" in line for line in lines)  # of many elements the shape
    assert not any("-−" in line or "- −" in line for line in lines)


def test_nothing_is_said_where_nothing_is_known(session: OpenSession) -> None:
    made = OpenSession(nnrepl.trace(eval(compile("lambda x: x * 2", "<no source>", "eval")), mx.ones(2)))
    assert values_at(made, made.tape.ops[0]) == ()
    with pytest.raises(nnrepl.UserError, match="nothing to put in"):
        made.run("values")


def test_a_stop_with_values(session: OpenSession) -> None:
    made = OpenSession(nnrepl.trace(lambda x: mx.sum(x * 2), mx.array([1.0, 2.0])))
    made.run("config stop values")
    first = str(made.run("step"))
    assert "[2 4]▏" in first
    assert "#1 = [2 4]" not in first  # it stands in the line
    assert "━" in first.splitlines()[3]
    assert "[1 2] * 2" in str(made.run("goto start")) + str(made.run("values"))


def test_dull_steps_are_gone_over() -> None:
    def function(x: mx.array) -> mx.array:
        y = mx.exp(x).reshape(2, 1).T.astype(mx.float16)
        return mx.sum(y * 2)

    made = OpenSession(nnrepl.trace(function, mx.array([1.0, 2.0]), wrt=0))
    made.run("config dull pass")
    assert "went over #2 reshape, #3 transpose, #4 astype" in str(made.run("step"))
    assert [made.op.name, made.cursor] == ["multiply", 4]  # type: ignore[union-attr]
    made.run("back")
    assert made.cursor == 0
    made.run("step 2")
    assert made.op.name == "sum"  # type: ignore[union-attr]
    made.run("back")
    assert made.cursor == 4
    made.run("back 2")
    assert made.cursor == 0  # there is one such op less
    made.run("until backward")
    names = []
    while made.op is not None:
        names.append(made.op.name)
        made.run("step")
    assert [name for name in names if "reshape" in name or "transpose" in name or "astype" in name] == []
    made.run("config dull stop")
    made.run("goto start")
    made.run("step")
    assert made.op.name == "reshape"  # type: ignore[union-attr]
