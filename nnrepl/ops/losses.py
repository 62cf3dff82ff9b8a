"""Losses: how far off predictions are."""

from __future__ import annotations

import mlx.core as mx

from nnrepl.ops.entry import COMPOSITE, Row
from nnrepl.ops.pointwise import last, pointwise
from nnrepl.ops.traits import Trait


def _cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    wide = logits.astype(mx.float32)
    score = mx.squeeze(mx.take_along_axis(wide, targets[..., None], -1), -1)
    return mx.logsumexp(wide, axis=-1) - score


pointwise(
    "fast.cross_entropy", "m + ln(Σ exp(logits − m)) − logits[targets],  m = max logits",
    {"logits": "g · (exp(logits − m) / Σ exp(logits − m) − [j = targets]),  m = max logits"},
    "Cross-entropy: how surprised the shares softmax(logits) are by the right answer, −ln of its share. Backwards: "
    "each logit gets its share, less 1 at the right answer (j counts the classes).",
    parameters="logits, targets", row=Row(last, reduces=True, whole=("logits",)), kind=COMPOSITE,
    traits=(Trait.SURPRISE, Trait.SHARES, Trait.SWALLOWS), forward=_cross_entropy,
)  # fmt: skip
