"""Looks: the steps that a command is about are opened for it, by what it `Opens`; and what stays closed is said."""

from __future__ import annotations

import re

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.table import Command, Opens
from nnrepl.session import closed
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.session.typed import AT_HAND, on_tape
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Leaf, Remnant

_NO_TENSORS = re.compile(r"(steps|pass|mem|ev|b|w|disp|$)")
"""What `info` tells without looking at any tensor, or variable."""


def open_first(session: TapeSession, command: Command | None, text: str) -> None:
    """Open what a command is about to look into. Raises UserError, or RunAgain: then the line is run once more."""
    tape = session.tape
    name = "" if command is None else command.names[0]
    looks = Opens.PYTHON if command is None else command.opens
    python = Opens.PYTHON in looks
    if (python and _asks_program(session, text)) or (name == "info" and text.startswith("locals")):
        session.changes.look_alive()
    if not tape.closed:
        return
    of_gradients = name == "health" or (name == "why" and re.match(r"loss\b", text) is not None)
    if of_gradients and not any(pass_.kind == GRADIENT_PASS for pass_ in tape.passes):
        return  # it says that there is none, whatever is opened: a closed gradient call is known as one
    if python or Opens.PLACE in looks:
        closed.open_named(session, text, not python)
    if name in ("why", "health"):
        closed.open_not_finite(session, asked=name == "why" and re.match(r"(nan|inf)\b", text) is not None)
    told = python and Opens.TAPE in looks  # `what` is about the op that made a value, also of one that is at hand
    if told:
        closed.open_last(session)
    if told or Opens.MADE in looks:
        _open_made(session, text)
    if name == "plot":
        from nnrepl.session import turn_curves

        over_turns = turn_curves.counts(tape)
        (turn_curves.open_over_turns if over_turns else closed.open_plotted)(session, text)
    elsewhere = re.match(r"(start|end)$|(step |turn |pass )?\d", text) is not None
    info = name == "info" and _NO_TENSORS.match(text) is None
    here = Opens.HERE in looks or info
    if here or (name == "goto" and not elsewhere) or (python and _asks_tape(session, text)):
        closed.open_last(session, before=name == "health")
    if Opens.GRADIENTS in looks or (info and re.match(r"(par|gr)", text)):
        closed.open_gradients(session)
    if name == "why" and re.match(r"loss\b", text):
        closed.open_compared(session)
    if python:
        closed.open_mentioned(session, text)
    if name == "health":
        closed.open_next(session)


def _names(text: str) -> set[str] | None:
    """Return the names that may stand in Python, which is read later, and once; None where it has the tape's own words
    in it (`#12`, `layers.0.weight`)."""
    if re.search(r"[#∂@]|[\w)\]](?<!\d)\.\d", text):
        return None
    return set(re.findall(r"(?<![\w.])[^\W\d]\w*", text))


def _asks_program(session: TapeSession, text: str) -> bool:
    """Whether Python may name a variable of the program's."""
    names, program = _names(text), session.debuggee
    if program is None:
        return False
    if names is None or not names.isdisjoint(program.namespace):
        return True
    timelines, bindings = session.changes.timelines, session.tape.bindings
    # On its way to the timeline looked at, the program may not have come to where it sets them.
    away = timelines.current is not timelines.live
    return away and any(bindings.noted(name, lambda code: True) for name in names)


def _open_made(session: TapeSession, text: str) -> None:
    """Open the step in which a value was made natively: what is asked is how."""
    from nnrepl.explain.paths import target_of

    name = text.partition(" at ")[0].strip()
    try:
        value = target_of(session, name) if name else None
    except UserError:
        return  # the command itself says so
    if value is not None and isinstance(value.op, ClosedOp) and session.edits.can_run_again:
        closed.open_at(session, value.op.position)
    if isinstance(value, Remnant) and session.edits.can_run_again:
        closed.open_steps(session, [value.step])
    source = None if value is None else value.oldest
    if isinstance(source, Leaf) and source.kind in ("captured", "parameter") and not session.openings:
        closed.open_step_before(session, source)


def _asks_tape(session: TapeSession, text: str) -> bool:
    """Whether Python names something that only the tape knows."""
    names = _names(text)
    if names is None:
        return "#" in text or "∂" in text
    program = session.debuggee
    known = {*AT_HAND, *(program.namespace if program is not None else ())}
    return any(on_tape(session, name) for name in names - known)


def with_unseen(
    session: TapeSession, command: Command, shown: RenderableType | None, away: bool
) -> RenderableType | None:
    """Return what a command shows, and what of the program it has not looked at.

    Args:
        away: Whether the user looks at what one op does inside: that is a tape of its own.
    """
    name = command.names[0]
    if shown is None or Opens.TAPE not in command.opens:
        return shown
    if away and name not in ("last", "what"):
        return Group(
            shown, Text("This is about what is inside of the op, and nothing else; out leads back.", style="hint")
        )
    said = closed.said_of_closed(session.tape)
    return Group(shown, Text(said, style="hint")) if said else shown
