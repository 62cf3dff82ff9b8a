"""Norms: rows whose common size (and mean) is taken out.

Sources: Ba et al. 2016 (layer norm); Zhang & Sennrich 2019 (RMS norm).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import COMPOSITE, Row, said
from nnrepl.ops.pointwise import last, pointwise
from nnrepl.ops.traits import Trait

ROW = Row(last)
"""The last axis is a row."""


def _layer_norm(x: mx.array, weight: Any, bias: Any, eps: float) -> mx.array:
    wide = x.astype(mx.float32)
    mu = mx.mean(wide, axis=-1, keepdims=True)
    centered = wide - mu
    variance = mx.mean(mx.square(centered), axis=-1, keepdims=True)
    normal = (centered * mx.rsqrt(variance + eps)).astype(x.dtype)
    scaled = normal if weight is None else normal * weight
    return scaled if bias is None else scaled + bias


def _rms_norm(x: mx.array, weight: Any, eps: float) -> mx.array:
    wide = x.astype(mx.float32)
    mean_square = mx.mean(mx.square(wide), axis=-1, keepdims=True)
    normal = (wide * mx.rsqrt(mean_square + eps)).astype(x.dtype)
    return normal if weight is None else normal * weight


_SPREAD = "μ = mean x,  s = √(mean (x − μ)² + eps)"

pointwise(
    "fast.layer_norm", f"(x − μ) / s · weight + bias,  {_SPREAD}",
    {"x": f"(came − shift − stretch · unit) / s,  {_SPREAD},  unit = (x − μ) / s,  came = g · weight,  "
          "shift = mean came,  stretch = mean (came · unit)",
     "weight": f"g · (x − μ) / s,  {_SPREAD}", "bias": "g"},
    "Each row is moved to mean 0 (less {μ}) and scaled to spread 1 (by {s}), then scaled and moved by learned numbers. "
    "Backwards: what came loses what would only shift the row, and what would only stretch it: neither can change a "
    "row that is normalized.",
    parameters="x, weight, bias, eps", row=ROW, kind=COMPOSITE, traits=(Trait.NORMALIZES,), forward=_layer_norm,
    source="Ba et al. 2016, Layer Normalization",
)  # fmt: skip

_COLLECTS = (
    "Backwards: each number of it was used in every row; it collects what arrives there, times the number of the "
)
said("fast.layer_norm", weight=f"{_COLLECTS}normalized row.",
     bias="Backwards: each number of it was added in every row; it collects what arrives there.")  # fmt: skip

_SIZE = "r = √(mean x² + eps)"

pointwise(
    "fast.rms_norm", f"x / r · weight,  {_SIZE}",
    {"x": f"(came − stretch · unit) / r,  {_SIZE},  unit = x / r,  came = g · weight,  "
          "stretch = mean (came · unit)",
     "weight": f"g · x / r,  {_SIZE}"},
    "Each row is scaled (by {r}) so that its root mean square is 1, then scaled by learned numbers. Backwards: what "
    "came loses what would only stretch the row, because that cannot change a row that is normalized.",
    parameters="x, weight, eps", row=ROW, kind=COMPOSITE, traits=(Trait.NORMALIZES,), forward=_rms_norm,
    source="Zhang & Sennrich 2019, Root Mean Square Layer Normalization",
)  # fmt: skip
said("fast.rms_norm", weight=f"{_COLLECTS}normalized row.")
