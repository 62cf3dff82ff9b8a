"""Inside: ops taken apart, their primitives, their gradients checked."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import NOTHING, Grammar, Opens, command
from nnrepl.commands.understand import UNDERSTAND
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.session.lookup import NUMBER
from nnrepl.session.session import TapeSession
from nnrepl.tape import Op

OP = Grammar("[NAME | PLACE]", lambda text: True, "places")


def op_of(session: TapeSession, text: str) -> Op:
    """Return the op that is meant: the one at a place, the one that made a name, or the one at the cursor."""
    if not text:
        if session.op is None:
            said = "the cursor stands after the last op; name one, such as #3"
            raise UserError(said if len(session.tape) else "nothing has been recorded yet, so no op can be named")
        return session.op
    from nnrepl.explain.paths import target_of
    from nnrepl.explain.words import made_before

    if NUMBER.fullmatch(text):
        return session.lookup.op(text)
    value = target_of(session, text)
    if value.op is None:
        maker = value.oldest.op
        how = f"{made_before(maker)}: ask for {maker.label}" if maker is not None else "no op on the tape made it"
        raise UserError(f"{text} comes in from outside of this pass, and {how}")
    return value.op


@command("into", takes=OP, opens=Opens.PLACE | Opens.HERE | Opens.MADE, group=UNDERSTAND)
def into(it: Interpreter, text: str) -> RenderableType | None:
    """Take a fused op apart into textbook ops, and step through them as through any others.

    `into #28`, `into weights`, or alone for the op at the cursor; for an op of the backward pass the gradient is
    taken apart. The ops inside count from #1 and are stepped like any others; what went in keeps the program's
    name. The result is compared with the op's own. `out` leads back.
    """
    from nnrepl.explain.taken_apart import agreement, open_op
    from nnrepl.explain.words import number

    with aside():
        inside = open_op(it.session, op_of(it.session, text))
        found = agreement(inside)
    opened = inside.opened
    close = (
        "the same bits"
        if found.largest == 0
        else f"the result differs from the op's own by at most {number(found.largest)}"
    )
    many = f"{found.ops} textbook ops, here called #1 to #{found.ops}" if found.ops > 1 else "1 textbook op"
    said = f"inside {opened.label} {opened.name}: {many}; {close}"
    if found.largest and found.peak:
        said += f" (its largest element is {number(found.peak)})"
    it.session = inside
    it.shown = None
    inside.goto("backward" if opened.of is not None else "start")
    stands = ", ".join(f"{own} is {program}" for own, program in inside.stands.items())
    return Text(f"{said}. {f'In the formula {stands}. ' if stands else ''}out leads back.", style="heading")


@command("out", takes=NOTHING, group=UNDERSTAND)
def out(it: Interpreter, text: str) -> None:
    """Leave the op that `into` has opened, or the statement of `debug`."""
    outer = it.session.outer
    if outer is None:
        raise UserError("you are not inside of an op; into #n opens one, finish leaves a function")
    it.session = outer
    it.shown = None
    it.session.arrive(it.session.cursor)


@command("primitives", takes=OP, opens=Opens.PLACE | Opens.HERE | Opens.MADE, group=UNDERSTAND)
def primitives(it: Interpreter, text: str) -> RenderableType | None:
    """List what MLX's own graph does for an op: `primitives #14`, or alone for the op at the cursor."""
    from nnrepl.explain.primitives import primitives as primitives_of
    from nnrepl.view.finite_differences import primitives_view

    op = op_of(it.session, text)
    with aside():
        return primitives_view(op, primitives_of(op))


@command(
    "check",
    takes=Grammar("[#n | NAME | grad(w) | pass]", lambda text: True, "names"),
    opens=Opens.PLACE | Opens.HERE | Opens.GRADIENTS | Opens.MADE | Opens.TAPE,
    group=UNDERSTAND,
)
def check(it: Interpreter, text: str) -> RenderableType | None:
    """Compare gradients with finite differences.

    `check #14` checks one op by itself, in float64 where it can, also a function with a vjp of your own; alone, the
    op at the cursor. `check grad(w)` checks the whole gradient of a parameter, from the loss on; `check pass` those
    of all parameters, and each function with a vjp of your own by itself: it says how long that will take, and Ctrl-C
    stops it with what it has. A few elements are checked one by one, all together along a random direction. Only
    what rounding and the noise of the loss cannot explain is called wrong; kinks (ReLU at 0) are explained, and what
    `stop_gradient` holds back is held fixed.
    """
    from nnrepl.explain.check import check_op, check_pass, last_with, run_with_gradient
    from nnrepl.explain.paths import differentiated, gradient_pass, inner_of_gradient, value_of
    from nnrepl.view.finite_differences import check_view

    session = it.session
    with aside():
        if text == "pass":
            pass_ = gradient_pass(session)
            leaves = [leaf for leaf in pass_.wrt if pass_.grads.get(leaf)]
            return check_view(check_pass(session, pass_, leaves, whole=True))
        inner = inner_of_gradient(text)
        value = value_of(session, inner) if inner else None
        found = None if value is None else differentiated(session, value) or last_with(session, value)
        if found is not None and found[1] in found[0].wrt:
            return check_view(check_pass(session, found[0], [found[1]]))
        op = op_of(session, text)
        if text and not NUMBER.fullmatch(text):
            op = run_with_gradient(session, op)
        return check_view(check_op(session, op))
