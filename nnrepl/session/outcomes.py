"""Outcomes: conditions on what is known where a closed call ends: its loss, its gradients, and the weights and the
state of optimizers, which the program holds.

What a name means there is known from the steps that were recorded: it is asked natively only if all that has been
called so came out of a call.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.session.conditions import named_in
from nnrepl.session.expressions import instead_of
from nnrepl.session.own_names import OWN_NAMES
from nnrepl.session.parsed import Parsed, replaced
from nnrepl.session.standing import Standing
from nnrepl.session.wires import variable
from nnrepl.tape import GRADIENT_PASS, SETUP_PASS, UNBOUND, UPDATE_PASS, ClosedOp, Op, Pass, Value, arrays_of


@dataclass(frozen=True, slots=True)
class Ended:
    """A closed call that has just ended.

    Attributes:
        op: The call, or an op of it.
        loss: What it differentiated, if that is known; None of an update.
        before: The loss of the gradient call before; None where that is not known.
        returned: What it gave back.
        frame: From where it was called.
        compiled: Whether it is the last one in a compiled function, which has given back what it likes.
    """

    op: Op
    loss: mx.array | None
    before: Value | None
    returned: Any
    frame: FrameType | None
    compiled: bool = False

    @property
    def differentiates(self) -> bool:
        """Whether there is a gradient call in it."""
        return self.op.pass_.kind == GRADIENT_PASS or self.compiled


Found = Callable[[Ended], Any]
"""Gives what a name means where a call has ended; raises LookupError where it means nothing."""


class Outcome:
    """A condition that can be asked where a call has ended.

    Attributes:
        of_weights: Whether it speaks of weights or of the state of an optimizer.
    """

    def __init__(self, parsed: Parsed, names: dict[str, Found], of_weights: bool) -> None:
        self.of_weights = of_weights
        self._names = names
        self._code = _compiled(parsed, list(names))

    def holds(self, ended: Ended) -> bool:
        """Whether it is true there, or may be: what cannot be asked is said where the step is open."""
        space: dict[str, Any] = {"mx": mx}
        try:
            for number, found in enumerate(self._names.values()):
                space[f"__value_{number}__"] = found(ended)
        except _NotHere:
            return False
        except LookupError:
            return True
        for name in self._code.co_names:
            thing = UNBOUND if ended.frame is None or name in space else variable(ended.frame, name)
            if thing is not UNBOUND:
                space[name] = thing
        try:
            return bool(eval(self._code, space))
        except Exception:
            return True  # what is wrong is said where it is asked, in the opened step


class _NotHere(Exception):
    """What is asked for is not made by such a call."""


def _compiled(parsed: Parsed, names: list[str]) -> CodeType:
    """Compile a condition with a placeholder for each name that means a tensor."""
    body = parsed.only()
    place: dict[str, str] = {name: f"__value_{number}__" for number, name in enumerate(names)}
    meant = []
    for mention in parsed.mentions:
        words = (mention.path if mention.word is None else mention.word.path).split(".")
        fits = [count for count in range(len(words), 0, -1) if ".".join(words[:count]) in place]
        meant.append((place[".".join(words[: fits[0]])], tuple(words[fits[0] :])) if fits else ("", ()))
    by = instead_of(parsed, tuple(meant))
    for call, name in zip(parsed.gradient_calls.values(), parsed.gradients):
        by[call] = ast.copy_location(ast.Name(place[f"grad({name})"], ast.Load()), call)
    return compile(ast.Expression(replaced(body, by)), "<prompt>", "eval", dont_inherit=True)


def outcome_of(session: Standing, parsed: Parsed) -> Outcome | None:
    """Return what asks a condition where calls have ended; None if that cannot tell."""
    names = session.names
    if any(word.number or word.version or word.partial for word in parsed.words.values()) or parsed.bound:
        return None
    plain, gradients = named_in(parsed, names)
    if len(gradients) != len(parsed.gradient_calls) or not (plain or gradients):
        return None
    found: dict[str, Found] = {}
    weights = [name for name in plain if name != "loss"]
    if weights and (gradients or "loss" in plain):
        return None  # they are made at different moments
    for name in plain:
        way = _loss if name == "loss" else weight_of(session, name)
        if way is None or (name == "loss" and not is_called_loss(session)):
            return None
        found[name] = way
    for name in gradients:
        at = _places_of_gradient(session, name)
        if not at:
            return None
        found[f"grad({name})"] = _gradient(at)
    known = {path.partition(".")[0] for path in plain} | OWN_NAMES
    others = [path for path in parsed.plain_names if path.partition(".")[0] not in known]
    if any("." in path for path in others):
        return None  # an attribute of the program's may change at any time
    return Outcome(parsed, found, bool(weights))


def is_called_loss(session: Standing) -> bool:
    """Whether what the program calls `loss` in the steps that were recorded is what it differentiates and nothing
    else."""
    tape = session.tape
    if len(tape.steps) < (1 if tape.closed else 2):
        return False  # the first is not over yet, or there are none
    step = tape.steps[0]
    loss = step.loss
    called = [value for start, value in session.names.versions("loss") if start <= step.end]
    return loss is not None and all(value.canonical is loss.canonical for value in called)


def _loss(ended: Ended) -> Any:
    if not ended.differentiates:
        raise _NotHere
    if ended.loss is None:
        raise LookupError
    return ended.loss


# -- gradients -----------------------------------------------------------------------------------------------

Places = dict[CodeType | None, tuple[int, list[tuple[int, ...]]]]
"""For each function that is differentiated, which of its weights is meant, and the shapes of all."""


def _places_of_gradient(session: Standing, name: str) -> Places:
    """Where in what a gradient call returns a gradient lies; empty where it is no weight's, or is summed up from
    parts, each of which counts."""
    found: Places = {}
    of = {weight: pass_ for pass_ in session.tape.passes for weight in pass_.wrt}
    for _, value in session.names.versions(name):
        pass_ = of.get(value)
        if pass_ is None:
            if value.op is not None and value.op.pass_.kind not in (UPDATE_PASS, SETUP_PASS):
                return {}
            continue
        parts = pass_.grads.get(value.canonical, ())
        at = (pass_.wrt.index(value), [weight.shape for weight in pass_.wrt])
        if len(parts) > 1 or found.setdefault(pass_.code, at) != at:
            return {}
    return found


def _gradient(places: Places) -> Found:
    def found(ended: Ended) -> Any:
        pass_: Pass = ended.op.pass_
        if ended.compiled:
            raise LookupError
        if pass_.kind != GRADIENT_PASS or pass_.code not in places:
            raise _NotHere
        at, shapes = places[pass_.code]
        for part in (ended.returned[-1:] if isinstance(ended.returned, tuple) else (), ended.returned):
            arrays = arrays_of(part)
            if [array.shape for array in arrays] == shapes:
                return arrays[at]
        raise LookupError

    return found


# -- weights -------------------------------------------------------------------------------------------------


def weight_of(session: Standing, name: str) -> Found | None:
    """Return what gives a weight, or a part of an optimizer's state, as the program holds it; None if the name means
    anything else as well."""
    names, tape = session.names, session.tape
    first = next((pass_ for pass_ in tape.passes if pass_.kind == UPDATE_PASS), None)
    updates: set[Pass] = set()
    last: Value | None = None
    for _, value in names.versions(name):
        op = value.op
        if op is not None and op.pass_.kind != SETUP_PASS:  # what came in from somewhere has not been made
            again = op.pass_ in updates and op.pass_ is not first  # the first one makes the optimizer's state
            if op.pass_.kind != UPDATE_PASS or isinstance(op, ClosedOp) or again:
                return None
            updates.add(op.pass_)
        last = value
    if last is None or not updates:
        return None
    made = last
    if names.homes.now(made) is None:
        return None

    def found(ended: Ended) -> Any:
        thing = names.homes.now(made)
        if thing is None:
            raise LookupError
        return thing

    return found
