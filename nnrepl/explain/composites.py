"""Composites: a function or a module of the program as a whole, before the ops that it consists of."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace

from nnrepl.classes import dataclass
from nnrepl.explain import in_numbers, surprise, taught, words
from nnrepl.explain.cases import Names
from nnrepl.explain.composed import composed, elementwise
from nnrepl.explain.explanation import Explanation, Symbol, most_telling
from nnrepl.explain.known import entry_for
from nnrepl.explain.known_calls import CallEnd, KnownCall, back_through, end_of, known_call, known_function, largest
from nnrepl.explain.links import LeftOut, TensorLine, Told
from nnrepl.explain.look import Look
from nnrepl.explain.taught import RuleText
from nnrepl.ops import Trait, has
from nnrepl.ops.evaluated import Evaluated
from nnrepl.ops.layers import LAYERS, LOSSES, Whole
from nnrepl.session.entered import InModule
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import dotted
from nnrepl.session.reading import Reading
from nnrepl.tape import Activation, Leaf, Op, Value
from nnrepl.tape.claims import Claim, perhaps, say

_LINES = 14
_FEW = 3


@dataclass(frozen=True, slots=True)
class CompositeCall:
    """One call of a function or a module that made ops.

    Attributes:
        title: The name it was asked by: `loss_fn`, `layers.0`.
        kind: The module's class, "" for a function.
        scope: The call.
        ops: The forward ops that were made in it.
    """

    title: str
    kind: str
    scope: Activation
    ops: list[Op]


def find_call(session: Reading, text: str) -> CompositeCall | None:
    """Return the call of a function (`loss_fn`, `Net.__call__`) or a module (`layers.0`): at the cursor, else the last
    one before, else the next; None if nothing recorded is called so."""
    text = dotted(text)
    if not re.fullmatch(r"[\w.]+", text):
        return None
    module = _module(session, text)
    found: dict[Activation, CompositeCall] = {}
    for op in session.tape.ops:
        if op.of is not None or op.phase == "backward" or op.scope is None:
            continue
        call = _called(session, op, text, module)
        if call is not None:
            found.setdefault(call[0], CompositeCall(text, call[1], call[0], [])).ops.append(op)
    calls = list(found.values())
    if not calls:
        return None
    here = session.cursor
    around = [call for call in calls if call.ops[0].position <= here <= call.ops[-1].position + 1]
    before = [call for call in calls if call.ops[0].position <= here]
    return around[-1] if around else before[-1] if before else calls[0]


def _module(session: Reading, text: str) -> InModule | None:
    """Return the module that a path means, bare or from the variable that holds its model."""
    try:
        place = session.place(text)
    except UserError:
        return None
    return place if isinstance(place, InModule) else None


def _called(session: Reading, op: Op, text: str, module: InModule | None) -> tuple[Activation, str] | None:
    assert op.scope is not None
    for path, step in session.names.calls(op):
        kind = type(step.owner).__name__
        if (
            (path == text and path)
            or kind == text
            or (module is not None and module.accepts(step, op.tape, op.position))
        ):
            return step, kind
    for step in op.scope.path():
        qualified = getattr(step.code, "co_qualname", step.code.co_name)
        if text in (step.code.co_name, qualified):
            return step, ""
    return None


def explain_call(session: Reading, call: CompositeCall) -> Explanation:
    """Return a call as a whole: what it computes, from what, in which steps, and how the loss depends on its result."""
    look = Look(session)
    first, last = call.ops[0], call.ops[-1]
    code = call.scope.code
    where = f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"
    span = f"{first.label}" if first is last else f"{first.label} to {last.label}"
    kind = f", {call.kind}" if call.kind not in ("", call.title) else ""
    found = Explanation(None, title=f"{call.title}{kind}: {span}, {where}")
    call = _as_its_function(call)
    whole, made_by = _known(call), None
    results = _results(call)
    taken = sorted(_taken(call), key=_is_parameter)
    inside = [op for op in call.ops if call.kind and not _in_module(op, call)]
    names = Names([value for op in call.ops for value in (*op.inputs, *op.outputs)], results, inside=inside)
    cross_entropy = surprise.find(call.ops) if whole is LOSSES["cross_entropy"] else None
    if whole is not None:
        made_by = _known_call(look, call, whole, results, names)
        found.rule = _rule(call, whole if cross_entropy is None else cross_entropy.rule, made_by, results, names)
        found.words = taught.of_whole(whole)
    else:
        found.words = perhaps(_makes(call, results, taken, names))
    found.symbols = [
        Symbol(names(value), f"{tuple(value.shape)} {words.dtype(value.dtype)}", words.origin(value)) for value in taken
    ]
    if cross_entropy is not None:
        row = surprise.largest(look, cross_entropy)
        found.worked = [*surprise.forward(look, cross_entropy, row, names), *_reduced(look, call, names)]
        found.as_a_whole = surprise.whole_backward(look, cross_entropy, row, names)
    elif made_by is not None:
        told = largest(look, made_by)
        found.worked = [*told, *(_reduced(look, call, names) if told else [])]
        found.as_a_whole = back_through(look, made_by, names)
    if whole is not None and not found.worked and cross_entropy is None:
        found.worked = _heart(look, call, names) or _composed(look, call, results, names)
    # What has been worked out with numbers needs no list of its ops where these are MLX's own.
    shown_whole = whole is not None and bool(found.worked) and not _has_parts(session, call)
    found.parts = [] if shown_whole else _steps(session, look, call, names, brief=bool(found.worked))
    found.ways = _effect(look, session, [*results[:1], *taken], names)
    found.notes += say(_further(session, call, names, taken), _sizes([*found.steps, *found.chain]))
    found.ops = look.ops
    return found


def _sizes(lines: list[str]) -> Claim[str]:
    """Claim what a sign means that occurs in some lines."""
    return Claim("explain: size", lambda: any("‖" in line for line in lines), lambda: (
        "‖…‖ is the size of a tensor: the root of the sum of its squares."))  # fmt: skip


def _makes(call: CompositeCall, results: list[Value], taken: list[Value], names: Names) -> Claim[str]:
    """Claim what a call makes, out of what."""
    own = set(call.ops)
    made = all(value.op in own for value in results) and not any(value.op in own for value in taken)
    return Claim("explain: makes", lambda: made and bool(results), lambda: (
        f"{words.counted(len(call.ops), 'op')} make{'s' if len(call.ops) == 1 else ''} {_list(results, names)} out of "
        f"{_made_of(taken, names)}."))  # fmt: skip


def _rule(
    call: CompositeCall, whole: Whole, made_by: KnownCall | None, results: list[Value], names: Names
) -> list[RuleText]:
    """Return what a known call computes, without the parameters that it has not; of a loss how it is reduced."""
    own = call.scope.owner
    absent = [one for one in ("bias", "weight") if call.kind and isinstance(own, dict) and one not in own]
    end = _end(call, results)
    left = "y" if end.made is None else names(end.made)
    weight = "" if end.weights is None else names(end.weights)
    end_rule = [taught.reduced_rule(call.ops[-1], left, names)] if end.is_reduced else []
    told = (
        taught.call_rules(whole, absent, left, weight, _symbols(call, names))
        if made_by is None
        else taught.loss_rules(made_by.case, left, weight)
    )
    return [*told, *end_rule]


def _symbols(call: CompositeCall, names: Names) -> dict[str, str]:
    """Return what the symbols of a layer's rule are called here: its one input, and its parameters."""
    taken = _taken(call)
    given = [value for value in taken if not _is_parameter(value)]
    own = {value.name.rpartition(".")[2]: names(value) for value in taken if _is_parameter(value)}
    known: dict[str, str] = {name: called for name, called in own.items() if name in ("weight", "bias")}
    return {**known, "x": names(given[0])} if len(given) == 1 else known


def _end(call: CompositeCall, results: list[Value]) -> CallEnd:
    """Return how a call ends: of a layer, with its result."""
    if call.kind:
        return CallEnd(results[0] if results else None, None, False)
    return end_of(call.scope, call.ops, results)


def _known_call(look: Look, call: CompositeCall, whole: Whole, results: list[Value], names: Names) -> KnownCall | None:
    """Return the call of a function with what it was called with, where its rule can be computed."""
    end = _end(call, results).bare
    return None if end is None else known_call(look, whole, call.scope, call.ops, end, names)


def _heart(look: Look, call: CompositeCall, names: Names) -> list[Evaluated]:
    """Return one number of the op that a layer is about, worked out: its attention, its norm, else its last op."""
    traits = (Trait.ATTENDS, Trait.NORMALIZES)
    heart = next((op for trait in traits for op in call.ops if has(op.name, trait)), None)
    op = heart or (call.ops[-1] if len(call.ops) <= _FEW else None)
    entry = None if op is None else entry_for(op)
    if op is None or entry is None or op.error is not None or not op.outputs or op in op.tape.notes.mapped:
        return []
    value = op.outputs[0]
    if not value.size or value.refusal or any(one.refusal for one in op.inputs):
        return []
    place = most_telling(look, value)
    worked = in_numbers.forward(look, op, entry, value, place, names)
    told: list[Evaluated] = [] if worked is None else [worked]
    product = op.inputs[0].op if has(op.name, Trait.SUM) and op.inputs else None
    inner = entry_for(product) if product in call.ops and product is not None else None
    if product is None or inner is None or product.outputs[0].shape != value.shape or not told:
        return told
    # A convolution adds its bias in an op of its own.
    before = in_numbers.forward(look, product, inner, product.outputs[0], place, names)
    return [before, *told] if before is not None else told


def _composed(look: Look, call: CompositeCall, results: list[Value], names: Names) -> list[Evaluated]:
    """Return one number of what a call makes, or of the last that it made element by element (a recurrent layer puts
    its steps together at its end), as one expression."""
    made = [op.outputs[0] for op in call.ops if elementwise(op) is not None]
    value = results[0] if results[:1] and results[0] in made else made[-1] if made else None
    if value is None or not value.size:
        return []
    return [*composed(look, call.ops, value, most_telling(look, value), names)]


def _made_of(taken: list[Value], names: Names) -> str:
    """`x, t and 6 parameters`."""
    count = sum(1 for value in taken if _is_parameter(value))
    given = [value for value in taken if not _is_parameter(value)]
    parameters = words.counted(count, "parameter") if count else ""
    return " and ".join(part for part in (_list(given, names) if given else "", parameters) if part) or "nothing"


def _is_parameter(value: Value) -> bool:
    return isinstance(value, Leaf) and value.kind == "parameter"


def _further(session: Reading, call: CompositeCall, names: Names, taken: list[Value]) -> Claim[str]:
    """Claim what can be typed to see more of it."""
    way_back = next((value for value in taken if _last_gradient(session, value) is not None), None)
    backwards = f"; explain grad({names(way_back)}) goes backwards" if way_back is not None else ""
    first = call.ops[0]
    return Claim("explain: further", lambda: session.lookup.op(first.label) is first and first.error is None, lambda: (
        f"explain {first.label} explains its first op with numbers{backwards if len(call.ops) <= _FEW else ''}."
    ))  # fmt: skip


def _reduced(look: Look, call: CompositeCall, names: Names) -> list[Evaluated]:
    """Return what becomes of the losses of the rows at the end of a loss function."""
    last = call.ops[-1]
    entry = entry_for(last)
    if (
        not has(last.name, Trait.AVERAGES, Trait.TOTALS)
        or not last.inputs
        or last.outputs[0].size != 1
        or entry is None
    ):
        return []
    worked = in_numbers.forward(look, last, entry, last.outputs[0], (0,) * len(last.outputs[0].shape), names)
    return [] if worked is None else [worked]


def _known(call: CompositeCall) -> Whole | None:
    return LAYERS.get(call.kind) if call.kind else known_function(call.scope)


def _as_its_function(call: CompositeCall) -> CompositeCall:
    """Return the call of the one known function that a layer calls, where that makes all its ops: `nn.GELU` is
    `nn.gelu`."""
    inner = {_inner(op, call) for op in call.ops}
    scope = next(iter(inner)) if len(inner) == 1 else None
    return call if not call.kind or scope is None or known_function(scope) is None else replace(
        call, kind="", scope=scope)  # fmt: skip


def _taken(call: CompositeCall) -> list[Value]:
    """Return what the call used that it did not make itself."""
    own = set(call.ops)
    return list(dict.fromkeys(value for op in call.ops for value in op.inputs if value.op not in own))


def _results(call: CompositeCall) -> list[Value]:
    """Return what the call made that was used outside of it (or not at all): the last one first."""
    own = set(call.ops)
    made = [value for op in call.ops for value in op.outputs]
    used = {value for value in made if any(user in own for user in value.consumers)}
    return [value for value in reversed(made) if value not in used]


def _list(values: list[Value], names: Names) -> str:
    named = [names(value) for value in values[:4]]
    return (", ".join(named) + (", …" if len(values) > 4 else "")) or "nothing"


def _steps(session: Reading, look: Look, call: CompositeCall, names: Names, brief: bool) -> list[Told]:
    """Return the parts of the call in order: an op, or a module that it calls, a line; in brief without its own ops
    that only arrange numbers anew."""
    parts: list[tuple[str, list[Op]]] = []
    count = Counter(inner for op in call.ops if (inner := _inner(op, call)) is not None)
    for op in call.ops:
        part = _part(session, op, call, count)
        if brief and not part and has(op.name, Trait.ARRANGES):
            continue
        if part and parts and parts[-1][0] == part:
            parts[-1][1].append(op)
        else:
            parts.append((part, [op]))
    kept = parts if len(parts) <= _LINES else [*parts[: _LINES // 2], ("…", []), *parts[-_LINES // 2 :]]
    outputs = [ops[-1].outputs[0] for _, ops in kept if ops and ops[-1].outputs]
    look.stats(outputs)
    told: list[Told] = []
    for part, ops in kept:
        if not ops or not ops[-1].outputs:
            told.append(LeftOut(len(parts) - len(kept) + 1 if not ops else 1))
            continue
        own, output = set(ops), ops[-1].outputs[0]
        given = dict.fromkeys(v for op in ops for v in op.inputs if v.op not in own and not _is_parameter(v))
        called = part.replace("%s", _list(list(given), names) if given else "") or words.call(ops[-1], names)
        told.append(TensorLine(look, output, names(output), called))
    return told


def _has_parts(session: Reading, call: CompositeCall) -> bool:
    """Whether a call calls modules, which are explained each for itself."""
    count: Counter[Activation] = Counter()
    return any(_part(session, op, call, count) for op in call.ops)


def _part(session: Reading, op: Op, call: CompositeCall, count: Counter[Activation]) -> str:
    """Return the module or the function inside of the call in which an op was made, "" for an op of the call's own.

    Args:
        count: How many ops each call that it makes has made; a function with one op is that op.
    """
    inner = _inner(op, call)
    if inner is None:
        return ""
    for path, step in session.names.calls(op):
        if step is inner:
            kind = type(step.owner).__name__
            return f"{kind} {path}(%s)" if path else f"{kind}(%s)"
    return f"{inner.code.co_name}(%s)" if count[inner] > 1 else ""


def _inner(op: Op, call: CompositeCall) -> Activation | None:
    """Return the outermost call inside of a call in which an op was made; None where that is the call itself."""
    steps = op.scope.path() if op.scope is not None else []
    inside = [step for step in steps if step is not call.scope and step.within(call.scope)]
    return next((step for step in inside if not step.code.co_name.startswith("<")), None)


def _in_module(op: Op, call: CompositeCall) -> bool:
    """Whether an op was made in a module that the call calls."""
    inner = _inner(op, call)
    return inner is not None and isinstance(inner.owner, dict)


def _last_gradient(session: Reading, value: Value) -> Value | None:
    grads = [pass_.grads.get(value.canonical) for pass_ in session.tape.passes]
    return next((found[-1] for found in grads if found), None)


def _effect(look: Look, session: Reading, values: list[Value], names: Names) -> list[Told]:
    """How the loss depends on what came out, and on what went in."""
    pairs = [(value, _last_gradient(session, value)) for value in values[:5]]
    return [TensorLine(look, last, f"∂L/∂{names(value)}") for value, last in pairs if last is not None]
