"""Motions: forwards, backwards, and to places."""

from __future__ import annotations

import re
from collections.abc import Callable

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import COUNT, NOTHING, PLACE, PLACE_OR_NOTHING, Grammar, Opens, command
from nnrepl.session.errors import UserError

FORWARDS, BACKWARDS, JUMPS = "forwards", "backwards", "jumps"


def _count(text: str) -> int:
    return min(int(text[:12] or 1), 10**9)


@command("step", "s", takes=COUNT, group=FORWARDS, repeats=True)
def step(it: Interpreter, text: str) -> None:
    """Go to the next op, into modules; `step 5` goes five ops.

    The result of the op that was stepped over is shown if it is small (see `config peek`). It goes into a `vmap`, a
    `jvp` or a `grad` inside of a loss, too: help inside.
    After the last recorded op the program itself runs on to its next op.
    """
    it.session.step(_count(text))


COUNT_OR_STEP = Grammar(
    "[n] | step [n] | turn [n] | pass [n] | cell [n]",
    lambda text: re.fullmatch(r"\d*|(step|turn|pass|cell)(\s+\d+)?", text) is not None,
)


Motion = Callable[[int], None]


def _by(text: str, line: Motion, step: Motion, turn: Motion, pass_: Motion, cell: Motion) -> None:
    """Move by lines, or by what is named before the count."""
    motions = {"step": step, "turn": turn, "pass": pass_, "cell": cell}
    move = motions.get(text[:4])
    return line(_count(text)) if move is None else move(_count(text[4:].strip()))


@command("next", "n", takes=COUNT_OR_STEP, group=FORWARDS, repeats=True)
def next_(it: Interpreter, text: str) -> None:
    """Go to the next line of this function, over all ops that this line and its calls make; `step` goes op by op.

    At the end of the function it goes on in the caller. Where the next line calls a function, the cursor stands at
    the first op of that call, and `next` goes over it; `step` makes the call's function this one. Where the
    function takes gradients itself, the forward and the backward pass are stops of their own; a function that does
    so is gone over with the line that calls it. In the backward pass the lines come the other way round. The
    function is the program's own: a layer of MLX is gone over (see `config skip`). `next step` goes to the first op
    of the next training step, `next step 10` ten steps on; `next turn` to the next turn of a loop that takes no
    gradients by MLX; `next pass` to the next gradient call or update; `next cell` to the next cell of a notebook
    that makes ops.
    """
    session = it.session
    _by(text, session.next, session.next_step, session.next_turn, session.next_pass, session.next_cell)


@command("finish", "fin", "return", "r", takes=NOTHING, group=FORWARDS, repeats=True)
def finish(it: Interpreter, text: str) -> None:
    """Go on until this function of the program (a module's `__call__`, for one) is left."""
    it.session.finish()


@command("until", "unt", "advance", takes=PLACE_OR_NOTHING, opens=Opens.NOTHING, group=FORWARDS, repeats=True)
def until(it: Interpreter, text: str) -> None:
    """Go on to the next op at a place: `until #12`, `until train.py:31`, `until matmul`, `until backward`.

    `until step 500` goes to that training step, `until loss < 0.1` to where a loss has been made for which this holds
    (see `help places`). The program runs on to a place that it has not come to yet. Without a place, go to a greater
    line of this function: out of a loop, for one.
    """
    it.session.until(text)


@command("continue", "cont", "c", takes=COUNT, group=FORWARDS, repeats=True)
def continue_(it: Interpreter, text: str) -> None:
    """Run to the next stop, or to the end of the program; `continue 3` to the third stop from here."""
    it.session.resume(_count(text))


@command("reverse-step", "rs", "back", takes=COUNT, group=BACKWARDS, repeats=True)
def reverse_step(it: Interpreter, text: str) -> None:
    """Go one op back; `back 5` goes five. Nothing is run again and nothing is printed again."""
    it.session.back(_count(text))


@command("reverse-next", "rn", takes=COUNT_OR_STEP, group=BACKWARDS, repeats=True)
def reverse_next(it: Interpreter, text: str) -> None:
    """Go back to the first op of this line, from there to the line before; `rn step` to the step before."""
    session = it.session
    _by(text, session.back_next, session.back_step, session.back_turn, session.back_pass, session.back_cell)


@command("reverse-finish", "rfin", takes=NOTHING, group=BACKWARDS, repeats=True)
def reverse_finish(it: Interpreter, text: str) -> None:
    """Go back to where this function was entered; from there, to the op before the call."""
    it.session.back_finish()


@command("reverse-continue", "rc", takes=COUNT, group=BACKWARDS, repeats=True)
def reverse_continue(it: Interpreter, text: str) -> None:
    """Go back to the last stop before here, or to the first op of the first forward pass; `rc 3` three stops."""
    it.session.back_resume(_count(text))


@command("goto", takes=PLACE, opens=Opens.PLACE, group=JUMPS)
def goto(it: Interpreter, text: str) -> None:
    """Go to a place, in either direction.

    `goto #12` an op; `goto train.py:31`, `goto 31` a line; `goto z1` or `goto grad(z1)` the op that makes a value;
    `goto step 30` a training step, `goto 30#12` one of its ops; `goto turn 500` a turn of a loop that takes no
    gradients by MLX; `goto forward`, `goto backward`, `goto update` the first op of a phase; `goto layers.0` a module;
    `goto loss_fn` a function; `goto matmul` an operation; `goto layers.1 softmax` one within the other; `goto start`,
    `goto end`. Of several, the nearest: in this step, else before, else ahead. What the step before had is looked for
    to the end of this one. The program runs on to a place that it has not come to yet (see `help places`).
    """
    it.session.goto(text)


@command("rewind", takes=NOTHING, group=JUMPS)
def rewind(it: Interpreter, text: str) -> None:
    """Go back to the first op of this pass; from there, to the pass before."""
    it.session.rewind()


@command("restart", "run", takes=Grammar("[now]", lambda text: text in ("", "now")), group=JUMPS)
def restart(it: Interpreter, text: str) -> None:
    """Run the program again from its start, with the same arguments and random numbers.

    Its files are read anew; if one does not parse, nothing happens. Breakpoints stay, edits and timelines go: where
    there are several, `restart now` says that they may.
    """
    many = len(it.session.changes.timelines)
    if many > 1 and not text:
        raise UserError(
            f"restart would leave {many} timelines behind: restart now does; timeline 1, then goto start, goes to the "
            "start of the program as it is"
        )
    it.session.restart()
