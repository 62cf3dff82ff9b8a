"""Results: what is computed and then used by nothing: clipped gradients, new weights, gradients of the data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.disconnected import ends_here
from nnrepl.explain.health.gradient_findings import finals
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.explain.health.update_findings import changes, same_weight
from nnrepl.explain.outside import detours
from nnrepl.explain.paths import leaves_later
from nnrepl.installed import is_mlx
from nnrepl.tape import Op, Pass, Tape, Value
from nnrepl.tape.claims import Claim


def unapplied(case: Checkup) -> Iterator[Finding]:
    """Find new weights that the next step does not begin with."""
    moved = changes(case)
    after = case.next
    if after is None:
        return
    later = leaves_later(case.pass_, after)
    if not moved:
        yield from _misdirected(case, after, later)
        return
    lost = [one for one in moved if same_weight(one.before, later.get(one.before))]
    if len(lost) < len(moved):
        yield from _half_kept(case, after, [leaf for leaf in finals(case) if same_weight(leaf, later.get(leaf))])
        return
    case.unapplied = True
    op = lost[0].after.op
    assert op is not None
    yield from _not_kept(case, after, [one.before for one in lost], op)


def _misdirected(case: Checkup, after: Pass, later: dict[Value, Value]) -> Iterator[Finding]:
    """Find an optimizer that takes the gradients, and changes none of the weights that they belong to."""
    grads = finals(case)
    updates = [op for pass_ in case.after for op in pass_.ops if op.scope is not None and op.scope.updating]
    same = [leaf for leaf in grads if same_weight(leaf, later.get(leaf))]
    if not updates or not grads:
        return
    if len(same) < len(grads):
        yield from _half_kept(case, after, same)
        return
    stats = case.look.stats(grads.values())
    if all(stat.is_zero for stat in stats.values()):
        return
    case.unapplied = True
    users = case.session.tape.consumers
    made = next((op for op in reversed(updates) if op.outputs and not users(op.outputs[0])), updates[-1])
    returned = made.scope is not None and "update" not in [step.code.co_name for step in made.scope.path()]
    if returned and not users(made.outputs[0]):
        yield from _not_kept(case, after, same, made)
        return
    claim = Claim("finding: changes none", partial(_stay, case, after, same), lambda: (
        f"the update ({made.label} {words.call(made)}, {words.place(words.call_of(made))}) changes none of the weights "
        f"that were differentiated ({_named(same)}): {after.address} begins with the weights of {case.pass_.address}. "
        "Was the optimizer given another model, or is a compiled step without outputs=?"))  # fmt: skip
    yield from findings(claim, "discarded update", f"what {same[0].name}", made)


def _stay(case: Checkup, after: Pass, leaves: list[Value]) -> bool:
    """Whether the next pass begins with the very numbers of some weights, as far as they can be seen."""
    later = leaves_later(case.pass_, after)
    pairs = [(leaf, later.get(leaf)) for leaf in leaves]
    if any(other is None or other.shape != leaf.shape for leaf, other in pairs):
        return False
    seen = [(leaf, other) for leaf, other in pairs if other and case.look.can_see(leaf) and case.look.can_see(other)]
    case.look.see([one for pair in seen for one in pair])
    return all(case.look.numbers([mx.array_equal(a.array, b.array, equal_nan=True) for a, b in seen]))


def _half_kept(case: Checkup, after: Pass, same: list[Value]) -> Iterator[Finding]:
    """Find weights that stay what they are, although the optimizer took gradients of theirs that are not 0."""
    grads = {leaf: grad for leaf, grad in finals(case).items() if leaf in same}
    consumers = case.session.tape.consumers
    taken = {leaf: next((op for op in consumers(grad) if op.scope is not None and op.scope.updating), None)
             for leaf, grad in grads.items()}  # fmt: skip
    # A compiled function that is repeated computes no more than its outputs: what is not kept is not made.
    compiled = any(start <= case.pass_.start < end for start, end in case.session.tape.compiled)
    alone = [leaf for leaf, grad in grads.items() if compiled and all(op.pass_ is case.pass_ for op in consumers(grad))]
    stats = case.look.stats(grads.values())
    kept = [leaf for leaf in grads if (taken[leaf] is not None or leaf in alone) and not stats[grads[leaf]].is_zero]
    if not kept:
        return
    op, names = taken[kept[0]], _named(kept)
    what = (f"the gradients of {names} are used by nothing" if op is None else
            f"the update takes the gradients of {names} ({op.label}, {words.place(words.call_of(op))})")  # fmt: skip
    yield from findings(
        Claim("finding: half kept", partial(_stay, case, after, kept), lambda: (
            f"{what}, but {after.address} begins with the weights of {case.pass_.address}: the program does not keep "
            "the new ones (a compiled function keeps only what outputs= names, and takes anew only what inputs= "
            "names)")),
        "discarded update", f"what {kept[0].name}", op)  # fmt: skip


def _not_kept(case: Checkup, after: Pass, leaves: list[Value], op: Op) -> Iterator[Finding]:
    are = "are" if len(leaves) > 1 else "is"
    claim = Claim("finding: not kept", partial(_stay, case, after, leaves), lambda: (
        f"the new {_named(leaves)} ({op.label}, {words.place(words.call_of(op))}) {are} used by nothing: "
        f"{after.address} begins with the weights of {case.pass_.address}. optimizer.apply_gradients returns the new "
        "weights, and the program has to keep them"))  # fmt: skip
    yield from findings(claim, "discarded update", f"what {leaves[0].name}", op)


def discarded(case: Checkup) -> Iterator[Finding]:
    """Gradients that were clipped or scaled, and then not used, while the update takes the old ones."""
    grads = finals(case)
    raw = {grad: leaf for leaf, grad in grads.items()}
    updates = [op for pass_ in case.after for op in pass_.ops if op.scope is not None and op.scope.updating]
    if not updates or not any(taken in raw for op in updates for taken in op.inputs):
        return
    shown = {value for mark in case.session.tape.marks for value in mark.values}
    lost: list[Value] = []
    made: dict[Value, Value] = dict(raw)  # what was made of a gradient, by whose
    for pass_ in case.after:
        for op in pass_.ops:
            if op.scope is not None and op.scope.updating:
                continue
            whose = next((made[taken] for taken in op.inputs if taken in made), None)
            for value in op.outputs:
                if whose is not None and value.shape == whose.shape:
                    made[value] = whose
                    if not case.session.tape.consumers(value) and value not in shown:
                        lost.append(value)
    whose_lost = {made[value] for value in lost}
    if len(whose_lost) < len(grads) or len(grads) == 0:
        return
    first = lost[0].op
    assert first is not None
    claim = _lost(case, lost, first, [op for op in updates if any(taken in raw for taken in op.inputs)])
    yield from findings(claim, "discarded gradients", f"what {first.label}", first)


def _lost(case: Checkup, lost: list[Value], first: Op, updates: list[Op]) -> Claim[str]:
    """Claim that no op takes what was made of gradients, and that no update does."""

    def holds() -> bool:
        made = set(lost)
        return not any(made & set(op.inputs) for pass_ in case.after for op in pass_.ops) and bool(updates)

    name, more = _function(first), f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return Claim("finding: discarded gradients", holds, lambda: (
        f"what {name} makes of the gradients ({first.label}{more}) is used by nothing: the update takes the gradients "
        f"as they were. {name} changes nothing in place; take what it returns"))  # fmt: skip


def unkept(case: Checkup) -> Iterator[Finding]:
    """Find what is made of another model's weights and the new ones, for a target that is to follow, and not kept."""
    if case.next is None:
        return
    homes, new = case.session.names.homes, {one.after: one.before for one in changes(case)}
    kept = {value for mark in case.session.tape.marks if mark.how not in ("mx.eval", "mx.async_eval")
            for value in mark.values}  # fmt: skip
    made: dict[Value, tuple[Value | None, Value | None]] = {}  # of which trained weight, of which other
    lost: dict[Value, Value] = {}
    for op in (op for pass_ in case.after for op in pass_.ops if op.scope is not None and not op.scope.updating):
        parts = [made.get(one) or ((new[one], None) if one in new else (None, one)) for one in op.inputs]
        ours = next((mine for mine, _ in parts if mine is not None), None)
        other = next((one for _, one in parts if one is not None and homes.objects(one)), None)
        for value in op.outputs:
            if value.shape != (ours or other or value).shape or (ours is None and other is None):
                continue
            made[value] = ours, other
            whole = ours is not None and other is not None and _follows(case, ours, other)
            if whole and other and not (case.session.tape.consumers(value) or homes.objects(value) or value in kept):
                lost[other] = value
    if lost:
        yield from _not_followed(case, lost)


def _follows(case: Checkup, ours: Value, other: Value) -> bool:
    """Whether two weights lie at the same path of two models."""
    homes = case.session.names.homes
    one, two = homes.of(ours), homes.of(other)
    if one is None or two is None or ours.shape != other.shape:
        return False
    (root, path), (second, where) = homes.path(one), homes.path(two)
    return path == where and root is not second


def _not_followed(case: Checkup, lost: dict[Value, Value]) -> Iterator[Finding]:
    """Claim that no op takes what was made for the other model, and that it still has the weights of which it was."""
    homes, (other, value) = case.session.names.homes, next(iter(lost.items()))
    home, op = homes.of(other), value.op
    model = None if home is None else homes.name(homes.path(home)[0])
    if op is None or model is None:
        return

    def holds() -> bool:
        return all(not value.consumers and not homes.objects(value) and homes.objects(old)
                   for old, value in lost.items())  # fmt: skip

    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    claim = Claim("finding: unkept", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.place(op.source)}){more}, made of the weights of {model} and of the new "
        f"ones, is used by nothing: {model} keeps the weights that it has. {model}.update(...) gives it others"
    ))  # fmt: skip
    yield from findings(claim, "discarded update", f"what {op.label}", op)


def of_itself(case: Checkup) -> Iterator[Finding]:
    """Find an average that a model which is not trained is given, and that is one of its own weights with itself."""
    homes = case.session.names.homes
    trained = {value for one in changes(case) for value in (one.before, one.after)} | set(case.pass_.wrt)
    alone: dict[Value, Value] = {}  # what was made of one weight alone
    for op in (op for pass_ in case.after for op in pass_.ops if op.scope is not None and not op.scope.updating):
        whose = {alone.get(one, one) for one in op.inputs}
        if len(whose) != 1 or len(op.outputs) != 1 or op.outputs[0].shape != (weight := whose.pop()).shape:
            continue
        value = op.outputs[0]
        alone[value] = weight
        home = homes.of(value) if len(op.inputs) > 1 and weight not in trained else None
        if home is None or home not in homes.all_of(weight) or not homes.objects(value):
            continue
        claim = _stands_still(case, op, value, weight)
        found = list(findings(claim, "idle update", f"what {op.label}", op))
        yield from found
        if found:
            return


def _stands_still(case: Checkup, op: Op, value: Value, weight: Value) -> Claim[str]:
    """Claim that what a weight is replaced by is the same, but for rounding."""

    def holds() -> bool:
        if not case.look.can_see(value) or not case.look.can_see(weight):
            return False
        case.look.see([value, weight])
        new, old = (one.array.astype(mx.float32) for one in (value, weight))
        apart, size = case.look.numbers([mx.max(mx.abs(new - old)), mx.max(mx.abs(old))])
        return bool(apart <= 1e-6 * size)

    return Claim("finding: of itself", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.place(op.source)}) puts into the place of {words.name(weight)} what is "
        "made of it alone, and is the same but for rounding: it follows nothing. Was another model meant?"
    ))  # fmt: skip


def _function(op: Op) -> str:
    """Return the function of a library (else of the program) in which an op was made: `clip_grad_norm`."""
    steps = op.scope.path() if op.scope is not None else []
    named = [step.code.co_name for step in steps if not step.code.co_name.startswith("<")]
    library = [
        step.code.co_name
        for step in steps
        if is_mlx(step.code.co_filename) and step.code.co_name not in ("tree_map", "<lambda>", "<listcomp>")
    ]
    return library[0] if library else named[-1] if named else f"{op.label}"  # fmt: skip


def of_the_data(case: Checkup) -> Iterator[Finding]:
    """Find a gradient with respect to one argument that is subtracted from another."""
    own = {leaf.origin or leaf: leaf for leaf in case.pass_.wrt}
    others = _arguments(case.pass_) - set(own)
    for leaf, grad in finals(case).items():
        for op, step in _steps_of(case.session.tape, grad, case.after):
            taken = [value for value in op.inputs if value is not step]
            for value in taken:
                begun = value.origin or value
                if begun in others and begun is not (leaf.origin or leaf) and op.name in ("subtract", "add"):
                    claim = _moves_another(case, op, value, leaf)
                    yield from findings(claim, "gradient of another", f"explain {op.label}", op)
                    return


def _moves_another(case: Checkup, op: Op, value: Value, leaf: Value) -> Claim[str]:
    """Claim that what an op moves was not differentiated by the pass."""
    asked = {one.canonical for own in case.pass_.wrt for one in (own, own.origin) if one is not None}
    return Claim("finding: gradient of another", lambda: value.canonical not in asked and value in op.inputs, lambda: (
        f"{op.label} {words.call(op)} ({words.place(op.source)}) moves {words.name(value)} by ∂L/∂{leaf.name}: the "
        f"gradient was taken with respect to {leaf.name} and not to {words.name(value)} (argnums of value_and_grad; 0 "
        "is the first argument)"))  # fmt: skip


def _arguments(pass_: Pass) -> set[Value]:
    """Return what a pass takes from outside, by the values that it goes on with."""
    found: set[Value] = set()
    for op in pass_.forward:
        for taken in op.inputs:
            if taken.op is None or taken.op.pass_ is not pass_:
                found.add(taken.origin or taken)
    return found


def left_out(case: Checkup) -> Iterator[Finding]:
    """Find a number that is computed from what is trained, and used by nothing: a term of the loss that is not
    added."""
    pass_ = case.pass_
    if pass_.returned is None:
        return
    known = {value for mark in case.session.tape.marks for value in mark.values} | set(pass_.returned)
    known |= {root for root, _ in pass_.roots} | {way.value for way in detours(case.look, pass_)}
    trained = {leaf.canonical for leaf in pass_.wrt}
    for op in case.forward:
        if not any(taken.canonical in trained for taken in op.inputs) or ends_here(op, trained):
            continue
        trained.update(value.canonical for value in op.outputs)
        for value in op.outputs:
            alone = (
                value.size == 1
                and not case.session.tape.consumers(value)
                and value not in known
                and len(op.outputs) == 1
            )
            if alone and not case.session.names.homes.objects(value) and not _is_carried(case, op):
                yield from findings(_is_left_out(case, op, value), "term left out", f"explain {op.label}", op)


def _is_carried(case: Checkup, op: Op) -> bool:
    """Whether the result of a pass is made of what the same line gave in another turn: what a loop carries on is made
    once more than it is needed."""
    stack = [*(case.pass_.returned or ()), *(root for root, _ in case.pass_.roots)]
    here, seen = _where(op), set[Op]()
    while stack:
        before = stack.pop().op
        if before is not None and before.pass_ is case.pass_ and before not in seen:
            if before.lasti == op.lasti and _where(before) == here:
                return True
            seen.add(before)
            stack.extend(before.inputs)
    return False


def _where(op: Op) -> list[tuple[object, int]]:
    """Return where in the program an op stands, with the calls that led there, whichever turn of a loop made them."""
    found: list[tuple[object, int]] = []
    scope, lasti = op.scope, op.lasti
    while scope is not None:
        found.append((scope.code, lasti))
        lasti, scope = scope.lasti, scope.parent
    return found


def _is_left_out(case: Checkup, op: Op, value: Value) -> Claim[str]:
    """Claim that no op on the tape takes a number, and that the pass neither gives it back nor begins with it."""

    def holds() -> bool:
        ends = [*(case.pass_.returned or ()), *(root for root, _ in case.pass_.roots)]
        return value not in ends and not any(value in user.inputs for user in case.pass_.ops)

    return Claim("finding: term left out", holds, lambda: (
        f"{words.name(value)}, {op.label} {words.call(op)} ({words.place(op.source)}), is computed from what is "
        "trained, and is used by nothing: it is not added to the loss, nor given back, nor printed"))  # fmt: skip


def _steps_of(tape: Tape, grad: Value, passes: list[Pass]) -> Iterator[tuple[Op, Value]]:
    """Yield the ops after a pass that take a gradient, or a multiple of it."""
    stack = [grad]
    while stack:
        value = stack.pop()
        for user in tape.consumers(value):
            if user.pass_ in passes:
                yield user, value
                if user.name in ("multiply", "divide", "negative") and len(user.inputs) == 1:
                    stack.extend(user.outputs)


def _named(leaves: list[Value]) -> str:
    names = [leaf.name for leaf in leaves]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


BETWEEN: list[Check] = [unapplied, unkept]
"""Those that hold a step against the next one."""
CHECKS: list[Check] = [unapplied, unkept, of_itself, discarded, of_the_data]
INSIDE: list[Check] = [left_out]
"""Those that look at the forward part alone."""
