"""Turn curves: what an expression is over the turns of a program that takes no gradients by MLX, one number a turn."""

from __future__ import annotations

import ast
from bisect import bisect_right
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.session.closed import closed_between, open_steps
from nnrepl.session.errors import NoGradient, NotYet, UserError
from nnrepl.session.expressions import aside
from nnrepl.session.own_names import Surroundings
from nnrepl.session.parsed import Parsed, parse, side_by_side
from nnrepl.session.reading import Reading
from nnrepl.session.standing import Standing
from nnrepl.session.wires import variable
from nnrepl.tape import UNBOUND, Tape
from nnrepl.tape.steps import is_turn


def counts(tape: Tape) -> bool:
    """Whether a curve over a tape counts turns: the program takes no gradients by MLX."""
    return bool(len(tape.turns)) and not tape.turns.is_over


def over_turns(session: Reading, parsed: Parsed) -> list[tuple[int, Any]]:
    """Return an expression as it stands at the end of each turn, where the program evaluates what it has made, with the
    number of the turn; turns that ran natively are left out, unless their numbers have been asked for."""
    tape = session.tape
    turns, known = tape.turns, tape.turns.curves.get(parsed.text.strip(), {})
    found: list[tuple[int, Any]] = []
    for number in range(1, len(turns) + 1):
        if number in known:
            found.append((number, known[number]))
            continue
        end = turns.end_of(number)
        if end and tape.ops[end - 1].operation.kind == "closed":
            continue
        at = bisect_right(tape.marks, end, key=lambda mark: mark.position)
        where = Surroundings(end, tape.marks[at - 1].scope if at else None, None)
        try:
            found.append((number, session.expressions.evaluate(parsed, where)))
        except (NotYet, NoGradient):
            continue
    return found


def open_over_turns(session: Standing, text: str) -> None:
    """Have the program run again natively, and note what is drawn at the end of each turn. Raises as `open_steps`
    does."""
    tape = session.tape
    turns = [number for number in closed_between(tape, 0, len(tape)) if is_turn(number)]
    drawn = [piece.text.strip() for piece in parse(", ".join(side_by_side(text)) or text).parts()]
    asked = {one for one in drawn if one not in tape.turns.curves and _is_number(session, parse(one))}
    if turns and asked:
        tape.turns.asked |= asked
        open_steps(session, turns[-1:], losses=turns, of=f"{', '.join(sorted(asked))} over {len(tape.turns):,} turns")


def _is_number(session: Standing, parsed: Parsed) -> bool:
    """Whether an expression is a number in the turns that are open, and Python alone can say so of the others."""
    if parsed.expression is None or parsed.words or parsed.gradients:
        return False
    try:
        numbers(parsed.text, over_turns(session, parsed))
    except Exception:
        return False  # the command says what is wrong with it
    return True


def numbers(text: str, found: list[tuple[int, Any]]) -> list[tuple[int, float]]:
    """Return what has been found, as numbers. Raises UserError if there is something else among it."""
    with aside():
        mx.eval([result for _, result in found if isinstance(result, mx.array)])
        return [(place, _as_number(text, result)) for place, result in found]


def _as_number(text: str, result: Any) -> float:
    if isinstance(result, mx.array) and result.size == 1:
        result = result.item()
    if isinstance(result, complex) or not isinstance(result, (bool, int, float)):
        raise UserError(f"{text} is no single number; a reduction makes it one, such as mx.abs({text}).max()")
    return float(result)


def note(tape: Tape, old: Tape, frame: FrameType | None) -> None:
    """Note what is asked about a turn, where the program forces an evaluation at its end.

    Args:
        tape: That of this run, along another one.
    """
    tape.turns.curves = old.turns.curves
    for text in old.turns.asked:
        number = None if frame is None else _number(text, frame)
        if number is not None:
            old.turns.curves.setdefault(text, {})[tape.turns.current] = number


def settle(old: Tape) -> None:
    """Note that the program has come by all turns. What was asked has an answer, if only that there is none."""
    for text in old.turns.asked:
        old.turns.curves.setdefault(text, {})
    old.turns.asked.clear()


def _number(text: str, frame: FrameType) -> float | None:
    """Return what an expression is as the program stands; None if it is no number."""
    parsed = parse(text)
    names: dict[str, Any] = {"mx": mx}
    for name in parsed.plain_names:
        thing = variable(frame, name)
        if thing is not UNBOUND:
            names[name] = thing
    try:
        result = eval(compile(ast.Expression(parsed.only()), "<prompt>", "eval", dont_inherit=True), names)
        if isinstance(result, mx.array):
            result = result.item()
        return None if isinstance(result, complex) else float(result)
    except Exception:
        return None  # it is asked once more where that turn is open, and what is wrong is said there
