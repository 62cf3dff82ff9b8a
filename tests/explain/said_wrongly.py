"""What `why` would say if a fault of nnrepl's had found what is not so: the check of each sentence is run on it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

import nnrepl
from nnrepl.explain import broken, failed_call, loss_of_edit, nonfinite, scale
from nnrepl.explain import disconnected as missing
from nnrepl.explain import loss as of_loss
from nnrepl.explain import why as asking
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.loss import LossChange
from nnrepl.session.births import INF, Birth
from nnrepl.session.session import TapeSession
from nnrepl.tape import Inside, claims
from tests.explain.said_whys import Program, W, attention, by_hand, edited_session, nested
from tests.support import OpenSession

# -- what is not so ------------------------------------------------------------------------------------------------


def hold(*of: Any) -> None:
    """Run the checks of claims, as if they were about to be said."""
    for one in of:
        for claim in [one] if isinstance(one, claims.Claim) else one:
            claims.proved(claim)


def wrongly_told(folder: Path) -> str:
    """What would be said if a fault of nnrepl's had found what is not so: each check is run on it."""
    sound = OpenSession(nnrepl.trace(lambda w: mx.sqrt(mx.abs(w @ w) + 1).sum(), W, wrt=0))
    look, (pass_,) = Look(sound), sound.tape.passes
    (leaf,), matmul, loss = pass_.wrt, pass_.forward[0], pass_.loss
    assert loss is not None
    root = next(op for op in pass_.forward if op.name == "sqrt")
    hold(
        missing._no_gradient(pass_, leaf), missing._ends_at(matmul, leaf, missing.Cone([matmul]), True),
        missing._not_in_the_loss(sound.tape, leaf, [matmul], {matmul}, []),
        missing._not_differentiated(pass_, leaf, [matmul], True, ""),
        missing._of_another_model(sound, matmul, leaf, None), missing._namesake(sound.tape, "w", leaf),
        missing._of_run(matmul, SimpleNamespace(ops=[matmul]), matmul.outputs[0]),  # type: ignore[arg-type]
        nonfinite._zeros_of(look, matmul.outputs[0]), scale._along(look, [leaf, loss], []),
        broken._overflow(look, Birth(INF, loss, 0, root), root, [1.0]), broken._backwards(
            look, Birth(INF, pass_.grads[leaf][-1], 0, root), root, [4.0], 1.0),
        failed_call._raised(matmul), failed_call._ended(pass_),
    )  # fmt: skip
    missing._never_used(sound, pass_, leaf, None)
    missing._how_to(sound.tape, leaf)
    of_shares = OpenSession(nnrepl.trace(lambda x: by_hand(x) + attention(x, x, x), mx.eye(2), wrt=0)).tape.passes[0]
    taken = next(op for op in of_shares.forward if op.name == "subtract")
    attends = next(op for op in of_shares.forward if "attention" in op.name)
    hold(broken._forwards(look, Birth("nan", taken.outputs[0], 0, taken), taken, [1.0]), broken._scores(look, attends))
    inner = OpenSession(nnrepl.trace(nested, W, wrt=0)).tape
    inside = next(op.pass_ for op in inner.ops if isinstance(op.pass_, Inside) and op.pass_.roots)
    missing._inside(next(iter(inside.grads)), inside)
    shaped = OpenSession(nnrepl.trace(lambda w: (mx.stack([w, w]).reshape(18) + w[0, 0]).sum() + (w @ w).sum(), W))
    for op in shaped.tape.ops:
        hold(failed_call._disagreement(op, op.inputs))
    hold(failed_call._meant(leaf, leaf, 3))
    hold(*(asking._not_asked("x", Stat(3, 3, bad, 0, 1.0, 1.0), "zero") for bad in (0, 3)))
    session = edited_session("#1 = #1 * 2")
    edit, value = next(iter(session.tape.notes.edits.items()))
    timeline = session.timelines.current
    assert timeline.edit is not None
    change = LossChange(1.0, 2.0, 2.0, 1.0, 1e-7)
    hold(missing._cut_by_edit(session.tape, edit, value), loss_of_edit._went(change, timeline.edit, timeline, timeline),
         of_loss._followed(change))  # fmt: skip
    return ""


def wrongly_told_of_a_step(folder: Path) -> str:
    """The same of two passes, and of a pass that failed."""
    with nnrepl.recording() as found:
        for number in range(2):
            mx.eval(mx.value_and_grad(lambda w, x: (w * x).sum())(W, W * (number + 1)))
        with contextlib.suppress(ValueError):
            mx.value_and_grad(lambda w: w @ mx.ones((4, 4)))(W)
    session = TapeSession(found.tape, found.names)
    before, after, failed = (pass_ for pass_ in found.tape.passes if pass_.kind == "gradient")
    hold(of_loss._heads(Look(session), before, after, LossChange(1.0, 2.0, 9.0, 1.0, 1e-7)),
         failed_call._between_ops(failed), asking._none_failed(session))  # fmt: skip
    return ""


WRONGS: list[Program] = [wrongly_told, wrongly_told_of_a_step]
