"""Places outside of their axis are told with their element, before MLX reads foreign memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import nnrepl
from nnrepl.record.bounds import outside
from nnrepl.session.errors import UserError
from tests.support import OpenSession, nnrepl_cli

X = mx.arange(12.0).reshape(4, 3)


def assigned(x: mx.array, i: mx.array) -> mx.array:
    y = x * 1
    y[..., i] = 0.0
    return y


TAKEN: dict[str, tuple[Callable[[mx.array, mx.array], Any], str]] = {
    "rows": (lambda x, i: x[i], "axis 0 of x (4, 3) has the places 0 to 3; #1 getitem reads"),
    "columns": (lambda x, i: x[:, i], "axis 1 of x (4, 3) has the places 0 to 2; #1 getitem reads"),
    "last axis": (lambda x, i: x[..., None, i], "axis 1 of x (4, 3) has the places 0 to 2; #1 getitem reads"),
    "take": (lambda x, i: mx.take(x, i, axis=1), "axis 1 of x (4, 3) has the places 0 to 2; #1 take reads"),
    "take of all": (lambda x, i: mx.take(x, i * 3), "axis 0 of x (4, 3) has the places 0 to 11; #2 take reads"),
    "along": (
        lambda x, i: mx.take_along_axis(x, i[None], axis=1),
        "axis 1 of x (4, 3) has the places 0 to 2; #2 take_along_axis reads",
    ),
    "added": (lambda x, i: x.at[i].add(1.0), "axis 0 of x (4, 3) has the places 0 to 3; #1 at.add writes"),
    "matrices": (
        lambda x, i: mx.gather_mm(x[None], mx.ones((4, 3, 2)), rhs_indices=mx.abs(i)),
        "(4, 3, 2) holds the matrices 0 to 3; #4 gather_mm reads",
    ),
    "quantized matrices": (
        lambda x, i: mx.gather_qmm(
            mx.ones((1, 1, 32)), *mx.quantize(mx.ones((4, 32, 32)), 32), None, mx.abs(i), group_size=32
        ),
        "holds the matrices 0 to 3; #5 gather_qmm reads",
    ),
    "samples": (
        lambda x, i: mx.vmap(lambda r: x[r])(i),
        "r[2] = 4, but axis 0 of x (4, 3) has the places 0 to 3; #1 getitem reads",
    ),
    "samples of both": (
        lambda x, i: mx.vmap(lambda r, row: row[r], in_axes=(0, 1))(i, x),
        "r[2] = 4, but axis 0 of row (4,) has the places 0 to 3; #1 getitem reads",
    ),
    "slice": (
        lambda x, i: mx.slice(x, mx.abs(i)[1:], axes=(0, 1), slice_size=(2, 2)),
        "#2[1] = 4, but axis 1 of x (4, 3) has a slice of that size begin at 0 to 1; #3 slice reads",
    ),
    "slice that is written": (
        lambda x, i: mx.slice_update(x, mx.ones((2, 2)), mx.abs(i)[1:], axes=(0, 1)),
        "axis 1 of x (4, 3) has a slice of that size begin at 0 to 1; #4 slice_update writes",
    ),
    "assigned": (assigned, "axis 1 of y (4, 3) has the places 0 to 2; #2 setitem writes"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_an_index_outside_is_told(name: str) -> None:
    taken, said = TAKEN[name]
    good = nnrepl.trace(taken, X, mx.array([0, -2, 1]))
    assert outside(good.ops) is None
    bad = outside(nnrepl.trace(taken, X, mx.array([0, 2, 4])).ops)
    assert bad is not None
    assert said in bad.text
    assert "out of range: i[2] = 4" in bad.text or name not in ("rows", "columns", "last axis", "take", "added")
    assert outside(nnrepl.trace(taken, X, mx.array([0, -13, 1])).ops) is not None


def test_whole_numbers_and_gradients() -> None:
    found = outside(nnrepl.trace(lambda x: x[7], X).ops)
    assert found is not None
    assert "index 7 is out of range: axis 0 of x (4, 3) has the places 0 to 3; #1 getitem reads" in found.text
    assert outside(nnrepl.trace(lambda x: x[-4, 2] + x[None, 3, ..., 1:9], X).ops) is None
    trace = nnrepl.trace(lambda x, i: x[i].sum(), X, mx.array([7]), wrt=0)
    assert outside(op for op in trace.ops if op.phase == "backward") is not None


def test_nothing_is_evaluated_and_nothing_changes() -> None:
    trace = nnrepl.trace(lambda x, i: (x[i] * 2).sum(), X, mx.array([0, 1]), wrt=0)
    edited = trace.set("i", mx.array([0, 77]))
    session = OpenSession(edited)
    session.run("goto end")
    with pytest.raises(nnrepl.UserError, match=r"index 77 is out of range: i\[1\] = 77, but axis 0 of x \(4, 3\) has"):
        session.run("print grad(x)")
    with pytest.raises(nnrepl.UserError, match=r"IndexError: index 77 \(element \[1\] of the index\) is out of range"):
        session.run("print x[i]")
    with pytest.raises(nnrepl.UserError, match=r"index 9 is out of range: axis 0 of x \(4, 3\)"):
        trace.set("x", lambda x: x[9])
    with pytest.raises(nnrepl.UserError, match=r"element \[1\] of the index is 9, but axis 0 of x \(4, 3\)"):
        trace.set("x", lambda x: x[mx.array([0, 9])])
    with pytest.raises(nnrepl.UserError, match=r"index 9 is out of range: axis 0 of a tensor \(4, 3\)"):
        trace.set("x", lambda x: (x * 2)[9])
    taken = [op for op in edited.ops if op.name in ("getitem", "multiply", "sum")]
    assert not any(value.evaluated for op in taken for value in op.outputs)


AT_THE_PROMPT = [
    "x[i]", "x[..., j]", "x.at[i].add(1.0)", "mx.take(x, i, axis=0)", "mx.take(x, mx.array([99]))",
    "mx.take(x, indices=j, axis=1)", "mx.take_along_axis(x, i[None], axis=1)",
    "mx.put_along_axis(x, i[None], x[:1, :1], axis=1)", "x.__setitem__(i, 0.0)",
    "mx.gather_mm(x[None], mx.ones((4, 3, 2)), rhs_indices=i)",
    "mx.gather_mm(x[None], mx.ones((4, 3, 2)), rhs_indices=-j)",
]  # fmt: skip


def test_what_is_typed_is_told_before_it_reads() -> None:
    session = OpenSession(nnrepl.trace(lambda x, i, j: x * 2, X, mx.array([0, 4]), mx.array([1, 3])))
    session.run("goto end")
    for line in AT_THE_PROMPT:
        with pytest.raises(nnrepl.UserError, match=r"IndexError: index -?\d+ .*out of range: .*tensor of shape \("):
            session.run(f"print {line}")
    with pytest.raises(nnrepl.UserError, match="a masked assignment of nothing to a tensor of shape"):
        session.run("print x.__setitem__(x > 3, mx.array([]))")
    for line in ("x[i - 1]", "x.at[j[:1]].add(1.0)", "mx.take(x, j[:1], axis=-1)", "x[None, 3]"):
        session.run(f"print {line}")
    assert type(X.at).__name__ == "ArrayAt"


def test_the_program_is_told_and_an_edit_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "rows.py"
    path.write_text(
        "import mlx.core as mx\nw = mx.ones((5, 3)); i = mx.array([0, 4])\n"
        "loss, _ = mx.value_and_grad(lambda w: w[i].sum())(w)\nprint(loss.item())\n"
        "m = w > 7\nw[m] = mx.array([])\nprint(w.tolist())\n"
    )
    result = nnrepl_cli(str(path), stdin="i[1] = 9\nc\nq\n")
    assert "index 9 is out of range: i[1] = 9, but axis 0 of w (5, 3) has the places 0 to 4" in result.stdout
    result = nnrepl_cli(str(path), stdin="w = w[mx.array([9, 9, 9, 9, 9])]\nc\nq\n")
    assert "index 9 is out of range" in result.stdout
    assert "reads outside" not in result.stdout, "what was refused is no op of the program's"
    assert "6.0" in result.stdout
    assert "a masked assignment of nothing to w (5, 3): it is empty, and MLX crashes on that" in result.stdout


def test_the_step_of_a_change_is_recorded_where_the_program_goes_on_natively(tmp_path: Path) -> None:
    """It read another's memory, and a wrong loss was printed."""
    (tmp_path / "rows.py").write_text(
        "import mlx.core as mx\nw = mx.ones((5, 3))\nlearn = mx.value_and_grad(lambda w, i: w[i].sum())\n"
        "for k in range(6):\n    i = mx.array([0, 3])\n    j = i + 1\n    loss, g = learn(w, j)\n    w = w - 0.1 * g\n"
        "    mx.eval(w)\nprint('loss', round(loss.item(), 3))\n"
    )
    lines = (
        "c",
        "goto step 3 rows.py:6",
        "i = i * 1000000",
        "c",
        "undo",
        "goto step 3 rows.py:6",
        "i = mx.array([2, 2])",
        "c",
    )
    result = nnrepl_cli("rows.py", stdin="\n".join(lines), cwd=tmp_path, env={"NNREPL_NATIVE": "on"})
    assert "index 3000001 is out of range: j[1] = 3000001, but axis 0 of w (5, 3)" in " ".join(result.stdout.split())
    assert re.findall(r"^loss (\S+)$", result.stdout, re.MULTILINE) == ["3.0", "3.6"], result.stdout


def test_many_places_and_those_of_several_ops() -> None:
    def several(x: mx.array, i: mx.array, j: mx.array) -> mx.array:
        return x[i].sum() + x[j % 100].sum() + mx.take(x, j * 1, axis=0).sum()

    good, many = mx.array([0, -4]), mx.arange(1000) % 4
    assert outside(nnrepl.trace(several, X, good, many).ops) is None
    found = outside(nnrepl.trace(several, X, good, mx.where(mx.arange(1000) == 700, 104, many)).ops)
    assert found is not None
    assert "#7 take" in found.text or "[700]" in found.text
    found = outside(nnrepl.trace(several, X, mx.array([0, 4]), many).ops)
    assert found is not None
    assert "i[1] = 4" in found.text


def test_places_that_come_from_what_is_taken_elsewhere() -> None:
    def twice(x: mx.array, i: mx.array) -> mx.array:
        j = i[i]
        return x[j]

    assert outside(nnrepl.trace(twice, X, mx.array([0, 1, 2])).ops) is None
    trace = nnrepl.trace(twice, X, mx.array([0, 1, 9]))
    found = outside(trace.ops)
    assert found is not None
    assert "i[2] = 9" in found.text
    assert not trace.ops[0].outputs[0].evaluated, "what is read there is anything"
    assert outside(nnrepl.trace(twice, X, mx.array([0, 5, 1, 1, 1, 1])).ops) is not None


@pytest.mark.parametrize(
    "wrap", [lambda f: f, mx.checkpoint, lambda f: lambda x, i: mx.grad(lambda x: f(x, i).sum())(x)]
)
def test_arrays_that_are_handed_out_lie_inside(wrap: Callable[[Any], Callable[..., mx.array]]) -> None:
    """Whoever evaluates a trace's arrays does not ask nnrepl before. A checkpoint's second run waits for its first."""

    def loss(x: mx.array) -> mx.array:
        at = mx.array([0, 1]) * 1
        taken = wrap(lambda x, at: x[mx.stop_gradient(at)].square())(x, at)
        return taken.sum()

    trace = nnrepl.trace(loss, X, wrt=0)
    edited = trace.set("at", lambda at: at + 10**9)
    for handed_out in (lambda: edited.value, lambda: edited.grads):
        with pytest.raises(UserError, match=r"\[0\] = 1000000000, but axis 0 of x \(4, 3\) has the places 0 to 3"):
            handed_out()
    with pytest.raises(UserError, match="1000000000"):
        _ = edited.set("taken", lambda taken: taken * 2).value
    assert trace.set("at", lambda at: at + 2).value.item() > 0


WRITTEN = """
import mlx.core as mx

x, i, far = mx.zeros((4,)), mx.array([0, 9]), mx.array([10**9])
compiled = mx.compile(lambda x: x.at[i * 1].add(1.0).sum())


def assigned(x):
    y = x + 1
    y[5] = 3.0
    return y.sum()


def kept():
    y = x + 0
    y[i] = 1.0
    try:
        mx.eval(y)
    except IndexError:
        return y


ways = [
    lambda: mx.value_and_grad(assigned)(x),
    lambda: mx.put_along_axis(x, i, mx.ones(2), axis=0),
    lambda: mx.slice_update(x, mx.ones((2,)), mx.array([3]), axes=(0,)),
    lambda: mx.value_and_grad(compiled)(x),
    lambda: mx.value_and_grad(compiled)(x),
    lambda: mx.value_and_grad(lambda x: mx.checkpoint(lambda x: x.at[i].add(1.0).sum())(x))(x),
    lambda: mx.grad(lambda x: mx.grad(lambda x: (x.at[i].add(1.0) ** 2).sum())(x).sum())(x),
    lambda: mx.vmap(lambda r: x.at[r].add(1.0))(i),
    lambda: mx.custom_function(lambda x: x.at[i].add(1.0))(x),
    lambda: x[far],
    lambda: x[x.at[i].add(1.0).astype(mx.int32)],
    kept,
]
for number, way in enumerate(ways):
    try:
        mx.eval(way())
        print(number, "was done")
    except IndexError as error:
        print(number, "outside of it" in str(error))
unread = x.at[i].add(1.0)
print((x + 1).tolist(), x[mx.array([4])].shape)
print(x.at[mx.array([3, -4])].add(1.0).tolist())
"""


def test_what_is_written_outside_never_reaches_mlx(tmp_path: Path) -> None:
    path = tmp_path / "written.py"
    path.write_text(WRITTEN)
    result = nnrepl_cli(str(path), stdin="config native off\nc\nq\n")
    shown = result.stdout.splitlines()
    assert [line for line in shown if line[:1].isdigit()] == [f"{number} True" for number in range(12)]
    assert "[1.0, 1.0, 1.0, 1.0] (1,)" in shown
    assert "[1.0, 0.0, 0.0, 1.0]" in shown
    assert result.returncode == 0


def test_numpy_does_not_have_it_written_either() -> None:
    def read(x: mx.array) -> list[float]:
        return np.asarray(x.at[mx.array([9])].add(1.0)).tolist()  # type: ignore[no-any-return]

    with pytest.raises(IndexError, match=r"#2 at.add writes outside of it"):
        nnrepl.trace(read, mx.zeros((4,)))
    assert nnrepl.trace(lambda x: mx.array(np.asarray(x * 2)), mx.ones((2,))).value.tolist() == [2, 2]


@pytest.mark.parametrize("line", ["print y", "y.tolist()", "[y, x]", "print y + 1", "hist y"])
def test_what_the_program_has_read_outside_is_told_where_it_is_shown(line: str, monkeypatch: Any) -> None:
    def read(x: mx.array, i: mx.array) -> mx.array:
        y = x[i]
        mx.eval(y)
        return y * 0

    session = OpenSession(nnrepl.trace(read, X, mx.array([0, 4])))
    session.run("goto #2")
    said: list[str] = []
    monkeypatch.setattr(session.hooks, "announce", said.append)
    session.run(line)
    session.run("print x")
    assert said == ["index 4 is out of range: i[1] = 4, but axis 0 of x (4, 3) has the places 0 to 3; #1 getitem "
                    "reads outside of it, which MLX does not check"]  # fmt: skip


def test_a_vjp_that_gives_too_few_gradients_is_refused_where_mlx_reads_beyond_them() -> None:
    @mx.custom_function
    def f(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
        return x * w + b

    @f.vjp
    def f_vjp(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
        return cotangent * 2

    x = mx.ones((2,))
    with pytest.raises(IndexError, match=r"the vjp of .*f gives 1 gradient for 3 tensors, and MLX reads beyond them"):
        nnrepl.trace(lambda x, w, b: f(x, w, b).sum(), x, x + 1, x + 2, wrt=(0, 1, 2))
    assert nnrepl.trace(lambda x, w, b: f(x, w, b).sum(), x, x + 1, x + 2, wrt=(0, 1)).grads[1].tolist() == [1, 1]
