"""Listing: the source with the ops beside its lines, and the ops."""

from __future__ import annotations

from rich.console import RenderableType

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.looking import LOOK
from nnrepl.commands.table import NOTHING, Grammar, Opens, command
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import Op

AROUND = 11


@command(
    "list",
    "l",
    takes=Grammar("[PLACE | FIRST,LAST | all]", lambda text: True, "places"),
    opens=Opens.PLACE | Opens.HERE,
    group=LOOK,
)
def list_(it: Interpreter, text: str) -> RenderableType | None:
    """Show the source around the line where you stand, with the ops that each line made; again: the next lines.

    `list 53`, `list train.py:53` around a line, `list 10,30` those lines, `list loss_fn` a function, `list softmax`
    around any other place, `list .` around where you stand again, `list all` the whole file. The numbers are those of
    the ops that a line, or a call in it, made in this step; ▶ is the line of the op that comes next. Where a library
    makes it, that is the line of the program that called it. `ops` lists the ops.
    """
    from nnrepl.session.excerpts import excerpt
    from nnrepl.view.op_list import source_view

    shown = excerpt(it.session, text, it.list_on("source") if not text else None)
    it.listed_to("source", shown.last + 1)
    return source_view(shown)


@command(
    "ll", "longlist", takes=Grammar("[PLACE]", lambda text: True, "places"), opens=Opens.PLACE | Opens.HERE, group=LOOK
)
def long_list(it: Interpreter, text: str) -> RenderableType | None:
    """Show the whole function in which you stand, with the ops that each line made: `ll`, `ll loss_fn`."""
    from nnrepl.session.excerpts import whole_function
    from nnrepl.view.op_list import source_view

    return source_view(whole_function(it.session, text))


@command("values", takes=NOTHING, group=LOOK)
def values(it: Interpreter, text: str) -> RenderableType | None:
    """Show the line where you stand with the values in the place of the names: `z1 = [[1 -2 1.25]] + [0.5 0.5 -0.25]`.

    What has been computed of the line stands there as its result, what the next op computes is underlined, and what
    the last one made is in a box. Of a tensor of more than 8 elements, or one that takes long to compute, the shape
    stands there. `config stop values` shows this at every stop; `config dull pass` lets `step` and `back` go over ops
    that only arrange numbers (reshape, transpose, astype).
    """
    from nnrepl.seen.stop_facts import values_at
    from nnrepl.view.stopped import values_view

    op = it.session.op_or_last
    shown = None if op is None else values_view(it.session.skip, op, values_at(it.session, op, shapes=True))
    if shown is None:
        raise UserError("there is nothing to put in here: p shows a tensor, info locals what the variables hold")
    return shown


@command(
    "ops",
    takes=Grammar("[PLACE | pass | all]", lambda text: True, "places"),
    opens=Opens.PLACE | Opens.HERE,
    group=LOOK,
)
def ops(it: Interpreter, text: str) -> RenderableType | None:
    """Show the ops around the cursor, with their state, source and shapes; again: the next ones.

    `ops 53` those of a line, `ops loss_fn` of a function, `ops backward` of a phase, `ops step 3` of a step; `ops #40`,
    `ops softmax` those around an op. `ops pass` the whole pass, folded by module, `ops layers.1` with a module
    unfolded, `ops all` with all of them.

    The signs: ● evaluated, blank not yet, ○ dropped (and computed again when looked at), ✎ an edit, ~ stale,
    ✗ failed; ▶ is the op that comes next.
    """
    from nnrepl.view.folding import pass_listing
    from nnrepl.view.op_list import op_table

    session = it.session
    if text in ("pass", "all"):
        return pass_listing(session.pass_, session.cursor, "all" if text == "all" else "")
    if text in ("", "."):
        begin = None if text else it.list_on("ops")
        start = max(session.cursor - AROUND // 2, 0) if begin is None or begin >= len(session.tape) else begin
        shown = session.tape.ops[start : start + AROUND]
        it.listed_to("ops", start + len(shown))
        return op_table(shown, session.cursor, len(session.tape))
    return _at_place(session, text)


def _at_place(session: TapeSession, text: str) -> RenderableType:
    from nnrepl.view.folding import pass_listing
    from nnrepl.view.op_list import op_table

    place, op = session.place(text), session.op_at(text)
    pattern = getattr(place, "pattern", "")
    if pattern and "*" not in pattern and op.pass_ is session.pass_:
        try:
            return pass_listing(session.pass_, session.cursor, pattern)
        except UserError:  # a module that only hands its calls on has no op of its own
            pass
    if place.whole:
        step = op.step
        inside = [other for other in step.tape.ops[step.start : step.end] if place.holds(session.tape, other.position)]
        return op_table(inside, session.cursor, len(session.tape))
    return op_table(_around(session, op), session.cursor, len(session.tape))


def _around(session: TapeSession, op: Op) -> list[Op]:
    start = max(op.position - AROUND // 2, 0)
    return session.tape.ops[start : start + AROUND]
