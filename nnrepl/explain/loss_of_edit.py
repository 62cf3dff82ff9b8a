"""Loss of an edit: what a change did to the loss, to first order, on its way through the activations."""

from __future__ import annotations

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.answer import Cause, Evidence
from nnrepl.explain.look import Look
from nnrepl.explain.loss import LossChange, Share, first_order, foretold, signed, verdict
from nnrepl.explain.paths import gradient_pass
from nnrepl.session.births import is_inexact
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Pass, Value
from nnrepl.tape.claims import Claim, joined, say, say_first
from nnrepl.timeline.compare import pairs_of
from nnrepl.timeline.edits import Edit
from nnrepl.timeline.timelines import Timeline

Changed = tuple[str, Value, Value, Value]
"""What something is called, its value before and after, and the gradient of the loss before."""


def edited_pass(session: Reading) -> tuple[Timeline, Pass, Pass] | None:
    """Return the timeline before the last edit, and the pass at the cursor on both, if the edit lies in that pass or
    right before it."""
    timeline = session.timelines.current
    if timeline.edit is None or timeline.parent is None:
        return None
    here = gradient_pass(session)
    if not here.start - len(timeline.edit.ops) <= timeline.edit.position < here.end or here.loss is None:
        return None
    for pass_ in timeline.parent.tape.passes:
        if pass_.kind == GRADIENT_PASS and pass_.number == here.number and pass_.loss is not None:
            return timeline.parent, pass_, here
    return None


def why_loss_of_edit(session: Reading, parent: Timeline, before: Pass, after: Pass) -> Cause:
    """How the loss of a pass differs from that without the edit: ΔL ≈ Σ ∂L/∂v · Δv, with the gradients from before,
    for what was edited and for each named value after it."""
    timeline = session.timelines.current
    edit = timeline.edit
    assert edit is not None
    same = say(Claim("why: edit without effect", lambda: not timeline.dependents(), lambda: (
        f"The loss is that of timeline {parent.number}: nothing after the edit {edit.text} depends on it."
    )))  # fmt: skip
    if same:
        return Cause(same[0])
    look = Look(session)
    changes = _changes(parent, timeline, before, after)
    assert before.loss is not None
    assert after.loss is not None
    look.see([before.loss, after.loss, *(value for _, *triple in changes for value in triple)])
    parts = [first_order(grad.array, old.array, new.array) for _, old, new, grad in changes]
    first, second, *found = look.numbers([before.loss.array, after.loss.array, *parts])
    shares = [Share(name, float(change)) for (name, *_), change in zip(changes, found)]
    change = LossChange(float(first), float(second), float(second), shares[0].change if shares else 0.0,
                    mx.finfo(before.loss.dtype).eps)  # fmt: skip
    answer = Cause(joined(say(_went(change, edit, timeline, parent))))
    none = Claim("why: edit without gradient", lambda: not shares, lambda: (
        "No gradient reached what was edited: the slope of the loss says nothing about it."))  # fmt: skip
    answer.reasons = say(none)
    if shares:
        first_share = shares[0].name
        slope = foretold(f"the change of {first_share}", f"Σ ∂L/∂{first_share} · Δ{first_share}", change)
        answer.reasons = [joined(say(slope), say_first(verdict(change.predicted, change.done, change.grain)))]
    answer.evidence = [
        Evidence(share.name, f"{signed(share.change)}   (Σ ∂L/∂{share.name} · Δ{share.name})") for share in shares[:8]
    ]
    answer.ops = look.ops
    return answer


def _went(change: LossChange, edit: Edit, timeline: Timeline, parent: Timeline) -> Claim[str]:
    """Claim what the losses of two timelines are: by an edit, if one begins with it and goes on from the other."""
    return Claim("why: loss by edit", lambda: timeline.parent is parent and timeline.edit is edit, lambda: (
        f"The loss is {words.number(change.second)} in timeline {timeline.number} and {words.number(change.first)} in "
        f"timeline {parent.number}: {signed(change.done)}, by {edit.text}."))  # fmt: skip


def _changes(parent: Timeline, timeline: Timeline, before: Pass, after: Pass) -> list[Changed]:
    """Return what was edited first, then each named value of the forward pass that differs, in order of execution."""
    edit = timeline.edit
    assert edit is not None
    found: list[Changed] = []
    later = {leaf.name: leaf for leaf in after.wrt}
    edited = {edit.target, edit.result}
    pairs = [(leaf, later[leaf.name]) for leaf in before.wrt if leaf.name in later]
    for old, new in pairs:
        if new.origin in edited:
            found += _change(old.name, old, new, before)
    if edit.target.op is not None and before.start <= edit.target.op.position:
        found += _change(edit.name, edit.target, edit.result, before)
    ops = pairs_of(parent.tape, timeline.tape).ops
    behind = {value for op in timeline.dependents() for value in op.outputs}
    for a, b in ops:
        if a.of is None and before.start <= a.position < before.backward:
            for old, new in zip(a.outputs, b.outputs):
                if new in behind and new is not after.loss and not new.name.startswith("#"):
                    found += _change(new.name, old, new, before)
    return found


def _change(name: str, old: Value, new: Value, before: Pass) -> list[Changed]:
    grads = before.grads.get(old.canonical)
    return [(name, old, new, grads[-1])] if grads and old.shape == new.shape and is_inexact(old) else []
