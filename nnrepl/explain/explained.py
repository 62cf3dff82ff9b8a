"""Explained: what `explain` is asked about, an op, a tensor, an element of one, or a whole call."""

from __future__ import annotations

import re

from nnrepl.explain import words
from nnrepl.explain.composites import explain_call, find_call
from nnrepl.explain.explanation import Explanation, of_value
from nnrepl.explain.links import LeftOut, TensorLine, Told, shown
from nnrepl.explain.look import Look
from nnrepl.explain.paths import gradient_of, main_output, target_of
from nnrepl.record.gradient_names import start_of
from nnrepl.session.errors import NoGradient, NotYet, UserError
from nnrepl.session.lookup import NUMBER
from nnrepl.session.reading import Reading
from nnrepl.tape import UPDATE_PASS, Op, Value
from nnrepl.tape.claims import Claim, say

_AT = re.compile(r"^(?P<target>.*?)\s*(?:\bat(?=[\s\[])\s*(?P<index>\S.*))?$")


def explain(session: Reading, text: str) -> Explanation:
    """Explain `#7`, `z1`, `grad(weights2) at [2, 0]`, `loss_fn`, `layers.0`, or the op at the cursor.

    Raises:
        UserError: If nothing is called so, or has no such element.
        NoGradient: If it is a gradient, and none flows there.
    """
    match = _AT.match(text.strip())
    target, index = (match["target"].strip(), match["index"]) if match else (text.strip(), None)
    if index is None and not session.lookup.is_known(target):
        call = find_call(session, target)
        if call is not None:
            return explain_call(session, call)
    op, value = _find(session, target)
    look = Look(session)
    if value is None:
        assert op is not None
        if op.error is not None:
            raise UserError(
                f"{op.label} {op.name} raised {type(op.error).__name__} and has no result; why error tells more"
            )
        value = main_output(op)
    found = of_value(look, value, index)
    if target == "loss":
        found.ways = _chain(session, look, value)
    found.ops = look.ops
    return found


def _find(session: Reading, target: str) -> tuple[Op | None, Value | None]:
    if not target:
        op = session.op
        if op is None:
            said = "the cursor stands after the last op; explain #3, or a name, explains one"
            raise UserError(
                said if len(session.tape) else "nothing has been recorded yet, so there is nothing to explain"
            )
        return op, None
    if target.startswith("update "):
        return None, _updated(session, target.removeprefix("update ").strip())
    address = NUMBER.fullmatch(target)
    if address is not None:
        op = session.lookup.op(target)
        slot = int(address["slot"] or 0)
        return op, op.outputs[slot] if 0 < slot < len(op.outputs) else None
    return None, target_of(session, target)


def _updated(session: Reading, name: str) -> Value:
    """Return the next new value that an update gives to a parameter."""
    made = _by_updates(session, name)
    if not made:  # `w` of the dict that the program calls params: an update gives it to `params.w`
        try:
            held = target_of(session, name)
        except UserError:
            held = None
        while held is not None and not made:
            made, held = _by_updates(session, held.name), held.origin
    if not made:
        raise UserError(f"no update of {name} is on the tape; go on until the optimizer has run")
    later = [value for value in made if value.op is not None and value.op.position >= session.cursor]
    return (later or made[-1:])[0]


def _by_updates(session: Reading, name: str) -> list[Value]:
    versions = [value for _, value in session.names.versions(name)]
    return [value for value in versions if value.op is not None and value.op.pass_.kind == UPDATE_PASS]


def _chain_to(session: Reading, value: Value) -> list[Op]:
    """Return the ops between a value and what the cursor's op makes: how the loss depends on where one stands."""
    here = session.op
    pass_ = here.pass_ if here is not None else None
    if here is None or pass_ is None or value.op is None:
        return []
    reached: set[Value] = set(here.outputs)
    way: list[Op] = []
    for op in session.tape.ops[here.position + 1 : value.op.position + 1]:
        if any(taken.canonical in reached or taken in reached for taken in op.inputs) and op.phase != "backward":
            reached.update(op.outputs)
            way.append(op)
    return [here, *way] if way and way[-1] is value.op else []


def _chain(session: Reading, look: Look, value: Value) -> list[Told]:
    """Return the forward ops from the cursor to the loss, one a line, and how the loss changes with the first of
    them."""
    way = _chain_to(session, value)
    if len(way) < 2:
        return []
    kept = [*range(len(way))] if len(way) <= _CHAIN else [*range(_CHAIN // 2), *range(len(way) - _CHAIN // 2, len(way))]
    look.stats(output for at in kept for output in way[at].outputs[:1])
    told: list[Told] = []
    before = -1
    for at in kept:
        if at > before + 1:
            told.append(LeftOut(at - before - 1, "ops"))
        output = way[at].outputs[0]
        told.append(TensorLine(look, output, words.name(output), words.call(way[at])))
        before = at
    here = way[0].outputs[0]
    try:
        gradient = gradient_of(session, here)
    except (NoGradient, NotYet):
        return [*told, *say(_flows_nowhere(session, here))]
    return [*told, *say(_changes_with(look, gradient, here))]


def _flows_nowhere(session: Reading, here: Value) -> Claim[str]:
    """Claim that no gradient reaches a tensor."""
    flows = [pass_.grads.get(here.canonical) for pass_ in session.tape.passes]
    return Claim("explain: no gradient flows", lambda: not any(flows), lambda: (
        f"No gradient flows from the loss to {words.name(here)}."))  # fmt: skip


def _changes_with(look: Look, gradient: Value, here: Value) -> Claim[str]:
    """Claim how the loss changes with a tensor."""
    start = start_of(gradient)
    return Claim("explain: changes with", lambda: gradient.gradient_of is here.canonical, lambda: (
        f"So {gradient.name} = {shown(look, gradient)}: how much {start} changes with {words.name(here)}."
    ))  # fmt: skip


_CHAIN = 12
