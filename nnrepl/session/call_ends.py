"""Call ends: what may stop a program that runs natively, as weights, gradients and attributes tell where calls end."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.session.outcomes import Ended, Found, weight_of
from nnrepl.session.own_names import OWN_NAMES
from nnrepl.session.parsed import Parsed
from nnrepl.session.standing import Standing
from nnrepl.session.wires import Wire, trips_of, variable
from nnrepl.tape import GRADIENT_PASS, UNBOUND, ClosedOp, Tape, arrays_of
from nnrepl.tape.steps import is_turn, unit

_any, _all, _isnan, _isfinite, _equal = mx.any, mx.all, mx.isnan, mx.isfinite, mx.array_equal


def is_closed(tape: Tape, number: int) -> bool:
    """Whether a call of a step is closed."""
    if number > len(tape.steps):
        return False
    step = unit(tape, number)
    return any(isinstance(tape.ops[pass_.start], ClosedOp) for pass_ in step.passes if len(pass_))


def last_ended(tape: Tape) -> Ended | None:
    """Return the last gradient call on a tape as if it had just ended natively; None if there is none."""
    passes = (pass_ for pass_ in reversed(tape.passes) if pass_.kind == GRADIENT_PASS and len(pass_))
    last = next(passes, None)
    if last is None:
        return None
    loss = None if last.loss is None else last.loss.array
    return Ended(tape.ops[last.start], loss, None, [value.array for value in last.given], None)


class Odd:
    """Odd numbers in the loss or in a gradient. What comes in with them was made in the step before.

    Args:
        odd: Which ones: gives a tensor of truths.
    """

    back = 1
    wires: Sequence[Wire] = ()

    def __init__(self, odd: Callable[[mx.array], mx.array]) -> None:
        self._odd = odd

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        if ended.loss is None:
            return []
        flags = [_any(self._odd(array)) for array in (ended.loss, *arrays_of(ended.returned))]
        return [tape.steps.number_at(ended.op.position)] if any([flag.item() for flag in flags]) else []

    def may(self, tape: Tape, number: int) -> bool:
        if is_turn(number):
            return True
        losses = [step.loss for step in tape.steps[number - 1 : number + 1]]
        if losses[0] is None:
            return True
        return any([_any(self._odd(loss.array)).item() for loss in losses if loss is not None])


def not_a_number(array: mx.array) -> mx.array:
    """Which numbers are NaN."""
    return _isnan(array)


def not_finite(array: mx.array) -> mx.array:
    """Which numbers are ∞ or NaN: most of what is ∞ inside comes out as NaN."""
    return ~_isfinite(array)


class VanishingGradient:
    """A gradient that is 0 as a whole."""

    back = 0
    wires: Sequence[Wire] = ()
    key = "; zero-grad"

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        pass_ = ended.op.pass_
        if pass_.kind != GRADIENT_PASS or not isinstance(ended.returned, (tuple, list, dict, mx.array)):
            return []
        whole = isinstance(ended.returned, tuple) and pass_.gives_loss
        gradients = arrays_of(ended.returned[1:] if whole else ended.returned)
        if not any([flag.item() for flag in [_all(array == 0) for array in gradients]]):
            return []
        return noted(tape, ended, self.key)

    def may(self, tape: Tape, number: int) -> bool:
        return trips_of(tape).may(self.key, tape, number)


def noted(tape: Tape, ended: Ended, key: str, between: bool = False) -> list[int]:
    """Note that something has been seen where a call has ended, or `between` it and the one before. Returns the steps
    in which it may be."""
    trips_of(tape).note(key, max(ended.op.position - between, 0), between)
    number = tape.steps.number_at(ended.op.position)
    return [near for near in range(number - between, number + 1) if is_closed(tape, near)]


class WeightChanges:
    """A weight, or a part of an optimizer's state, that has other numbers than where the call before ended.

    Args:
        text: What is watched.
        found: Gives it.
        now: What it is now.
    """

    back = 0
    wires: Sequence[Wire] = ()

    def __init__(self, text: str, found: Found, now: mx.array) -> None:
        self.key = f"; watch {text}"
        self._found, self._before = found, now

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        before = self._before
        try:
            now = self._before = self._found(ended)
        except LookupError:
            return noted(tape, ended, self.key, between=True)
        same = now is before or (
            now.shape == before.shape and bool(_equal(now, before, equal_nan=now.dtype in _FLOATS).item())
        )
        return [] if same else noted(tape, ended, self.key, between=True)

    def may(self, tape: Tape, number: int) -> bool:
        return trips_of(tape).may(self.key, tape, number)


_FLOATS = (mx.float32, mx.float16, mx.bfloat16, mx.float64, mx.complex64)


def watched_weight(session: Standing, parsed: Parsed) -> WeightChanges | None:
    """Return what looks out for a change of what is watched, if that is nothing but a weight or a part of an
    optimizer's state."""
    if parsed.words and not all(word.path and not (word.version or word.partial) for word in parsed.words.values()):
        return None
    name = parsed.text
    if parsed.gradients or not session.names.versions(name):
        return None
    found = weight_of(session, name)
    versions = session.names.versions(name)
    now = None if found is None else session.names.homes.now(versions[-1][1])
    return None if found is None or now is None else WeightChanges(name, found, now)


class AttributeHolds:
    """A condition on numbers that variables, and attributes of what they hold, have: asked where calls end.

    Args:
        parsed: The condition.
    """

    back = 0
    wires: Sequence[Wire] = ()

    def __init__(self, parsed: Parsed) -> None:
        self.key = f"; {parsed.text}"
        self._code = compile(ast.Expression(parsed.only()), "<prompt>", "eval", dont_inherit=True)
        self._paths = parsed.plain_names
        self._held: bool | None = None

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        before, now = self._held, self._holds(ended.frame)
        self._held = now
        return [] if now is False or (now and before) else noted(tape, ended, self.key, between=True)

    def may(self, tape: Tape, number: int) -> bool:
        return trips_of(tape).may(self.key, tape, number)

    def _holds(self, frame: FrameType | None) -> bool | None:
        """Whether it is true; None where that is not known, or is said where it is asked."""
        space: dict[str, Any] = {}
        for path in self._paths:
            first = path.partition(".")[0]
            space[first] = UNBOUND if frame is None else variable(frame, first)
            if not isinstance(_at(space[first], path), _PLAIN):
                return None
        try:
            return bool(eval(self._code, space))
        except Exception:
            return None


_PLAIN = (bool, int, float, str, type(None))


def _at(thing: Any, path: str) -> Any:
    """Return what lies at a path from an object, each in an object itself, so that no code of the program's is asked.
    What a module has that is no tensor is not known as it was (`nnrepl.record.containers`)."""
    for name in path.split(".")[1:]:
        thing = UNBOUND if isinstance(thing, dict) else getattr(thing, "__dict__", {}).get(name, UNBOUND)
    return thing


def asks_attributes(session: Standing, parsed: Parsed) -> bool:
    """Whether a condition speaks of numbers and texts in attributes of the program's objects, and of nothing else but
    variables."""
    if parsed.words or not any("." in path for path in parsed.plain_names):
        return False
    if any(path.partition(".")[0] in OWN_NAMES for path in parsed.plain_names):
        return False
    allowed = (ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Name, ast.Attribute, ast.Constant, ast.operator,
               ast.cmpop, ast.boolop, ast.unaryop, ast.expr_context, ast.Tuple, ast.List, ast.IfExp)  # fmt: skip
    frames = [] if session.recorder is None else session.recorder.stack.frames()
    if not frames or not all(isinstance(node, allowed) for node in ast.walk(parsed.only())):
        return False
    things = {path: variable(frames[-1], path.partition(".")[0]) for path in parsed.plain_names}
    return all(isinstance(_at(thing, path), _PLAIN) for path, thing in things.items())
