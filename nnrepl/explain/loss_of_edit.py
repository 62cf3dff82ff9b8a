"""Loss of an edit: what a change did to the loss, to first order, on its way through the activations."""

from __future__ import annotations

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.answer import Cause, Evidence
from nnrepl.explain.look import Look
from nnrepl.explain.loss import Share, signed, verdict
from nnrepl.explain.paths import gradient_pass
from nnrepl.record.batches import total
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Pass, Value
from nnrepl.timeline.compare import pairs_of
from nnrepl.timeline.timelines import Timeline

Change = tuple[str, Value, Value, Value]
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
    if not timeline.dependents():
        return Cause(f"The loss is that of timeline {parent.number}: nothing after the edit {edit.text} depends on it.")
    look = Look(session)
    changes = _changes(parent, timeline, before, after)
    assert before.loss is not None
    assert after.loss is not None
    look.see([before.loss, after.loss, *(value for _, *triple in changes for value in triple)])
    parts = [
        total(grad.array.astype(mx.float32) * (new.array - old.array).astype(mx.float32))
        for _, old, new, grad in changes
    ]
    first, second, *found = look.numbers([before.loss.array, after.loss.array, *parts])
    shares = [Share(name, float(change)) for (name, *_), change in zip(changes, found)]
    real = float(second) - float(first)
    answer = Cause(
        f"The loss is {words.number(float(second))} in timeline {timeline.number} and {words.number(float(first))} "
        f"in timeline {parent.number}: {signed(real)}, by {edit.text}."
    )
    if shares:
        predicted = shares[0].change
        answer.reasons.append(
            f"To first order the change of {shares[0].name} should make Σ ∂L/∂{shares[0].name} · Δ{shares[0].name} = "
            f"{signed(predicted)}; {verdict(predicted, real)}"
        )
    else:
        answer.reasons.append("No gradient reached what was edited: the slope of the loss says nothing about it.")
    answer.evidence = [
        Evidence(share.name, f"{signed(share.change)}   (Σ ∂L/∂{share.name} · Δ{share.name})") for share in shares[:8]
    ]
    answer.ops = look.ops
    return answer


def _changes(parent: Timeline, timeline: Timeline, before: Pass, after: Pass) -> list[Change]:
    """Return what was edited first, then each named value of the forward pass that differs, in order of execution."""
    edit = timeline.edit
    assert edit is not None
    found: list[Change] = []
    later = {leaf.name: leaf for leaf in after.wrt}
    edited = {edit.target, edit.result}
    pairs = [(leaf, later[leaf.name]) for leaf in before.wrt if leaf.name in later]
    for old, new in pairs:
        if new.origin in edited:
            found += _change(old.name, old, new, before)
    if edit.target.op is not None and before.start <= edit.target.op.position:
        found += _change(edit.name, edit.target, edit.result, before)
    ops, _ = pairs_of(parent.tape, timeline.tape)
    behind = {value for op in timeline.dependents() for value in op.outputs}
    for a, b in ops:
        if a.of is None and before.start <= a.position < before.backward:
            for old, new in zip(a.outputs, b.outputs):
                if new in behind and new is not after.loss and not new.name.startswith("#"):
                    found += _change(new.name, old, new, before)
    return found


def _change(name: str, old: Value, new: Value, before: Pass) -> list[Change]:
    grads = before.grads.get(old.canonical)
    return [(name, old, new, grads[-1])] if grads and old.shape == new.shape else []
