"""What gradients and losses are called where the program gives its tensors other names, or gets no loss."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from tests.session.test_stops_running import play
from tests.support import OpenSession

SWAPPED = """\
import mlx.core as mx


def step(a, b):
    a, b = b, a
    c = a * b + b
    return c.sum()


first, second = mx.array([1.0, 2.0]), mx.array([3.0, 5.0])
ga, gb = mx.grad(step, argnums=(0, 1))(first, second)
print(ga.tolist(), gb.tolist())
"""


def answers(screen: str) -> list[str]:
    return [answer.partition("\n")[2].strip() for answer in screen.split("(nnrepl) ")[1:]]


def test_a_gradient_is_called_by_what_the_variable_holds_where_one_stands(tmp_path: Path) -> None:
    """In `step` a is the second argument: its gradient is the other factor, b's is a + 1."""
    screen = play(
        tmp_path, SWAPPED, "goto backward", "p grad(a)", "goto #7", "p grad(a), a, b, grad(c@2)", "goto c", "goto end",
        "ops all", "goto #6", "explain", "why grad(a)", "c",
    )  # fmt: skip
    early, here, ops, rule, why = (answers(screen)[at] for at in (1, 3, 6, 8, 9))
    assert early.startswith("∂L/∂a is not made yet: #6 ")
    assert re.findall(r"(\S+) = \[([\d ]+)\]", here) == [
        ("∂L/∂a", "1 2"),
        ("a", "3 5"),
        ("b", "1 2"),
        ("∂L/∂c@2", "1 1"),
    ]
    assert re.search(r"#5 .*∂L/∂c .* part of ∂L/∂b", ops)
    assert re.search(r"#6 .*→ +∂L/∂a \(2,\), part of ∂L/∂b", ops)
    assert "∂L/∂a = ∂L/∂#1 · b" in rule
    assert re.search(r"a \* b +× b = \[1 2\] +∂L/∂a", why)
    assert "[4.0, 6.0] [1.0, 2.0]" in screen


@pytest.mark.parametrize(
    "call", ["mx.grad(step, argnums=(0, 1))(first, second)", "mx.vjp(step, [first, second], [one])"]
)
def test_what_gets_no_loss_is_not_called_after_it(tmp_path: Path, call: str) -> None:
    program = SWAPPED.replace("ga, gb = ", "one = mx.array(1.0)\nga, gb = ")
    program = program.replace("mx.grad(step, argnums=(0, 1))(first, second)", call).replace(".tolist()", "")
    screen = play(tmp_path, program, "goto backward", "p ga", "p loss", "ops forward", "what #3")
    assert answers(screen)[1] == "ga is not bound yet"
    assert re.match("loss = 16", answers(screen)[2])
    assert not re.search(r"→ +ga ", answers(screen)[3])


def test_what_gets_the_loss_is(tmp_path: Path) -> None:
    program = SWAPPED.replace("mx.grad(step, argnums=(0, 1))", "mx.value_and_grad(step)")
    program = program.replace("gb.tolist()", "gb").replace("ga, gb = ", "both = ga, gb = ")
    screen = play(tmp_path, program, "goto backward", "p ga", "p gb", "p both")
    assert answers(screen)[1].startswith("ga = 16")
    assert answers(screen)[2].startswith("gb is not bound yet")
    assert answers(screen)[3].startswith("both is not bound yet")  # which is given the loss and the gradients


CALLED = """\
import mlx.core as mx


def apply(fn, *a, **more):
    return fn(*a, **more)


def loss_fn(a, b):
    c, d = b, a
    kept = apply(mx.subtract, b, a)
    a, b = b, a
    left = a - b
    right = d - c
    return (kept * left * right).sum()


print(mx.grad(loss_fn)(mx.array([1.0, 2.0]), mx.array([5.0, 7.0])))
"""


def test_of_two_variables_that_hold_a_tensor_the_op_is_said_with_the_one_in_its_line(tmp_path: Path) -> None:
    screen = play(tmp_path, CALLED, "ops forward", "goto kept", "p a.1, a.0")
    ops = answers(screen)[0]
    assert re.search(r"b \(2,\), a\.1 \(2,\) +→ +kept ", ops)  # `a` is a tuple there, and no tensor
    assert re.search(r"a \(2,\) - b \(2,\) +→ +left ", ops)
    assert re.search(r"d \(2,\) - c \(2,\) +→ +right ", ops)
    assert answers(screen)[2].split("\n") == ["a.1 = [1 2]", "a.0 = [5 7]"]


WITH_MORE = """\
import mlx.core as mx


def loss_fn(w):
    reg = (w * w).sum()
    outs = [w, reg]
    for o in outs:
        o = o * 1
    return w.sum() + 0.1 * reg, reg, (w * 2).sum()


w = mx.array([1.0, 2.0])
both = mx.value_and_grad(loss_fn)
(loss, other, third), grads = kept = both(w)
print(loss.item())
pair, more = both(w)
print(pair[0].item())
"""


def test_the_first_of_what_a_loss_function_returns_is_the_loss(tmp_path: Path) -> None:
    screen = play(
        tmp_path, WITH_MORE, "ops forward", "goto backward", "p loss, other", "until pass 2", "goto pass 2 backward",
        "p pair[0]", "ops forward", "p [o.shape for o in outs]", "c",
    )  # fmt: skip
    first, here, pair, second, shapes = (answers(screen)[at] for at in (0, 2, 5, 6, 7))
    assert re.search(r"#7 +add +.*→ +loss ", first)
    assert re.search(r"#9 +sum +.*→ +third ", first)
    assert not re.search(r"→ +other ", first)
    assert here.splitlines()[0] == "loss = 3.5000"
    assert not re.search(r"→ +pair ", second)  # `pair` is a tuple
    assert "= 3.5" in pair or "not bound yet" in pair
    assert shapes == "[o.shape for o in outs] = [(2,), ()]"


OWN_GRAD = """\
import mlx.core as mx


def loss_fn(w, x):
    y = w * x
    return (y * y).sum()


{made}
w, x = mx.array([1.0, 2.0]), mx.array([3.0, 5.0])
for _ in range(2):
    {called}
    w = w - 0.01 * {used}
"""


@pytest.mark.parametrize(
    ("made", "called", "used", "own"),
    [
        ("f = mx.value_and_grad(loss_fn)", "loss, grad = f(w, x)", "grad", "p grad + 1"),
        ("f = mx.value_and_grad(loss_fn)", "grad = {'w': f(w, x)[1]}", "grad['w']", "p grad['w'] + 1"),
        ("def grad(w, x):\n    return mx.grad(loss_fn)(w, x)", "g = grad(w, x)", "g", "p grad(w, x) + 1"),
    ],
)
def test_a_variable_of_that_name_does_not_hide_the_gradient(
    made: str, called: str, used: str, own: str, tmp_path: Path
) -> None:
    """`grad(y)` is the gradient wherever the program's own `grad` takes no such call."""
    asked = "p grad(y)", "p grad(w).shape", "d = grad(y) * 2", "p d", own, "p grad(y, y)"
    screen = play(tmp_path, OWN_GRAD.format(made=made, called=called, used=used), "goto update", *asked)
    first, shape, _, double, mine, wrong = answers(screen)[1:7]
    assert first == "∂L/∂y = [ 6 20]", screen
    assert shape.endswith("= (2,)")
    assert double == "d = [12 40]"
    assert mine.endswith("= [ 19 101]")
    assert "takes one value of the tape" in wrong or own.startswith("p grad(w, x)")


def test_why_there_is_no_gradient_is_said_as_it_is() -> None:
    """Nobody asked, it is in no gradient pass, or none flows: three things that are not each other."""

    def run() -> list[mx.array]:
        w, x = mx.ones(2), mx.full((2,), 3.0)
        doubled, other = x * 2, x * 3
        mx.eval(doubled, other)
        more = other + 1

        def loss(w: mx.array, x: mx.array) -> mx.array:
            idle = w * 7  # noqa: F841
            made = w * x
            return (made * doubled).sum()

        slope = mx.grad(loss)(w, x)
        return [slope, more]

    with nnrepl.recording() as recorded:
        run()
    session = OpenSession(recorded)
    session.run("goto end")
    said = {name: str(session.run(f"p grad({name})")).splitlines()[0] for name in NOT_TAKEN}
    assert said == {name: words.format(name=name) for name, words in NOT_TAKEN.items()}


NOT_TAKEN = {
    "made": "∂L/∂made = [6 6]",
    "x": "no gradient was taken with respect to {name}: nobody asked for it",
    "doubled": "no gradient was taken with respect to {name}: nobody asked for it",
    "other": "no gradient was taken with respect to {name}: it is in no gradient pass",
    "more": "no gradient was taken with respect to {name}: it is in no gradient pass",
    "idle": "no gradient flows to {name} (disconnected): it is not used",
}
