"""Known calls: a loss or activation function of mlx.nn as a whole, from what it was called with: its rule, and one of
its numbers, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.explain.cases import Names, operand
from nnrepl.explain.elements import Index, telling, telling_of
from nnrepl.explain.look import Look
from nnrepl.ops import Trait, has, worked
from nnrepl.ops.case import Case, Operand
from nnrepl.ops.entry import COMPOSITE
from nnrepl.ops.evaluated import Evaluated, worked_out
from nnrepl.ops.layers import ACTIVATIONS, LOSSES, Whole
from nnrepl.ops.numbers import element
from nnrepl.ops.pointwise import described
from nnrepl.ops.reader import parse, readable
from nnrepl.session.expressions import aside
from nnrepl.tape import Activation, Op, Pass, Value

_LOSSES, _ACTIVATIONS = "mlx/nn/losses.py", "mlx/nn/layers/activations.py"
_WEIGHED = ("cross_entropy", "binary_cross_entropy")


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ends.

    Attributes:
        made: What it makes; of a loss function the losses, weighted but not reduced.
        weights: What they were multiplied by; None if by nothing.
        is_reduced: Whether the last op reduces them.
    """

    made: Value | None
    weights: Value | None
    is_reduced: bool

    @property
    def bare(self) -> Value | None:
        """What it makes before that is multiplied by weights."""
        last = self.made.op if self.made is not None else None
        if self.weights is None or last is None:
            return self.made
        return next(value for value in last.inputs if value is not self.weights)


def end_of(scope: Activation, ops: Sequence[Op], results: Sequence[Value]) -> CallEnd:
    """Return how a call of a function that made some ops ends; its results are those that are used outside."""
    last = ops[-1]
    reduced = has(last.name, Trait.AVERAGES, Trait.TOTALS) and last.scope is not None and (
        last.scope.code.co_name == "_reduce") and bool(last.inputs)  # fmt: skip
    end = last.inputs[0] if reduced else results[0] if results else None
    return CallEnd(end, _weighing(scope, ops, end), reduced)


def _weighing(scope: Activation, ops: Sequence[Op], end: Value | None) -> Value | None:
    """Return the weights by which the losses of cross-entropies are multiplied at their end."""
    made = end.op if end is not None else None
    if scope.code.co_name not in _WEIGHED or made is None:
        return None
    own = set(ops)
    given = [value for value in made.inputs if value.op not in own]
    return given[0] if has(made.name, Trait.MULTIPLIES) and len(made.inputs) == 2 and len(given) == 1 else None


@dataclass(frozen=True, slots=True)
class KnownCall:
    """One call of a function whose rule can be computed.

    Attributes:
        whole: The function.
        case: The call, as its arithmetic needs it.
        given: Its arguments that are tensors, by name.
        made: What it makes; of a loss function before that is weighted and reduced.
    """

    whole: Whole
    case: Case
    given: Mapping[str, Value]
    made: Value


def known_call(look: Look, whole: Whole, scope: Activation, ops: Sequence[Op], end: Value, names: Names
              ) -> KnownCall | None:  # fmt: skip
    """Return a call of a function; None where its rule can only be read, or where the call was repeated without its
    Python, so that its variables are another call's.

    Args:
        end: What it makes; of a loss function before that is weighted and reduced.
    """
    first = ops[0]
    code = scope.code
    arguments = code.co_varnames[: code.co_argcount]
    # An array that no op has taken yet when the call begins: the leaf that it will be.
    kept = {name: first.tape.bindings.held(scope, name, first.position) for name in arguments}
    given = {name: look.session.lookup.frames.taken(thing) for name, thing in kept.items()}
    told = whole.called_with(given)
    if told.row is None or not readable(told.text) or any(_refused(one) for one in (*given.values(), end)):
        return None
    used, defined = _symbols(told)
    operands = {one.canonical: operand(look, one, names) for one in given.values() if isinstance(one, Value)}
    bound = {
        name: operands[one.canonical] if isinstance(one, Value) else one
        for name, one in given.items()
        if name in used or name == "axis"
    }
    if not used - defined <= bound.keys() or not all(_is_known(one) for one in bound.values()):
        return None
    taken = {value.canonical for op in ops for value in op.inputs}
    if not all(one.canonical in taken for name, one in given.items() if isinstance(one, Value) and name in bound):
        return None
    entry = described(told.name, told.text, told.slopes, told.words, parameters=", ".join(bound), row=told.row,
                      kind=COMPOSITE)  # fmt: skip
    case = Case(entry, bound, [operand(look, end, names)])
    return KnownCall(told, case, {name: one for name, one in given.items() if isinstance(one, Value)}, end)


def _symbols(whole: Whole) -> tuple[set[str], set[str]]:
    """Return the symbols of a rule and its slopes, and those that it defines itself."""
    formulas = [parse(text) for text in (whole.text, *whole.slopes.values())]
    trees = [node for formula in formulas for node in (formula.main, *(node for _, node in formula.where))]
    defined = {name for formula in formulas for name, _ in formula.where}
    return {symbol for node in trees for symbol in node.symbols()}, defined | {"π", "n", "j", "g", "y"}


def _refused(given: Any) -> bool:
    return isinstance(given, Value) and bool(given.refusal)


def _is_known(given: Any) -> bool:
    return isinstance(given, (Operand, bool, int, float))


def largest(look: Look, call: KnownCall) -> list[Evaluated]:
    """Return the largest number that is made, worked out; nothing where that does not come to MLX's number."""
    made = call.case.y[0]
    if not made.size:
        return []
    with aside():
        place = telling_of(look, made.array)
        line = worked.forward(call.case, place)
        found = worked_out(line, made, place)
    return [] if found is None else [found]


def back_through(look: Look, call: KnownCall, names: Names) -> list[Evaluated]:
    """Return one element of the gradient that reaches the first argument that has one; nothing where none was taken, or
    where more arrives there than from this call."""
    for symbol, value in call.given.items():
        gradient, arrived = _gradients(call, value)
        if symbol in call.whole.slopes and gradient is not None and arrived is not None and gradient.size:
            return _back(look, call, value, gradient, arrived, telling(look, gradient), names)
    return []


def _gradients(call: KnownCall, value: Value) -> tuple[Value | None, Value | None]:
    """Return the last gradient of an argument, and that of what is made in the same pass."""
    for pass_ in reversed(call.made.op.tape.passes if call.made.op is not None else []):
        own, arrived = pass_.grads.get(value.canonical), pass_.grads.get(call.made.canonical)
        if own and arrived:
            return own[-1], arrived[-1]
    return None, None


def _back(
    look: Look, call: KnownCall, value: Value, gradient: Value, arrived: Value, place: Index, names: Names
) -> list[Evaluated]:
    if gradient.refusal or arrived.refusal or arrived.shape != call.made.shape:
        return []
    look.see([*call.given.values(), call.made, arrived, gradient])
    target, given = operand(look, gradient, names), operand(look, arrived, names)
    target.name, given.name = _apart(names, value, gradient), _apart(names, call.made, arrived)
    call.case.g = [given]
    left = element(target.name, place)
    with aside():
        lines = [
            worked.backward(call.case, symbol, left, place)
            for symbol, one in call.given.items()
            if one.canonical is value.canonical
        ]
        found = worked_out(lines[0], target, place) if len(lines) == 1 else None
    return [] if found is None else [found]


def _apart(names: Names, of: Value, gradient: Value) -> str:
    """Return what a gradient is called beside others: `∂L/∂h@12`."""
    own = names(gradient)
    return own if own.startswith("#") else f"∂L/∂{names(of)}"


def known_function(scope: Activation) -> Whole | None:
    """Return what is known of the function that a call runs; a function of the program that is only called like one of
    MLX's is not known."""
    file = scope.code.co_filename.replace("\\", "/")
    known = LOSSES if file.endswith(_LOSSES) else ACTIVATIONS if file.endswith(_ACTIVATIONS) else {}
    return known.get(scope.code.co_name)


def _calls_in(pass_: Pass | None) -> dict[Activation, list[Op]]:
    """Return the calls of known functions in a pass, with their forward ops."""
    calls: dict[Activation, list[Op]] = {}
    for op in () if pass_ is None else pass_.forward:
        for step in op.scope.path() if op.scope is not None else ():
            if known_function(step) is not None:
                calls.setdefault(step, []).append(op)
    return calls


def back_to(look: Look, gradient: Value, place: Index, names: Names) -> tuple[Whole, list[Evaluated]] | None:
    """Return the function whose argument a gradient is of, and one element of it worked out by its rule; None where
    there is none, where it is one op, or where more arrives there."""
    of = gradient.gradient_of
    if of is None or gradient.op is None:
        return None
    for scope, ops in _calls_in(gradient.op.pass_).items():
        if any(taken.canonical is of for op in ops for taken in op.inputs):
            own = set(ops)
            made = [value for op in ops for value in op.outputs if not any(user in own for user in value.consumers)]
            end = end_of(scope, ops, made[::-1]).bare
            whole = known_function(scope)
            call = None if end is None or whole is None else known_call(look, whole, scope, ops, end, names)
            arrived = None if call is None else gradient.op.pass_.grads.get(call.made.canonical)
            if call is not None and arrived and len(ops) > 1:
                found = _back(look, call, of, gradient, arrived[-1], place, names)
                if found:
                    return call.whole, found
    return None
