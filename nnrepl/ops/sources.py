"""Sources: where numbers come from. They depend on no tensor, so no gradient flows to anything."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.bilinear import product_of
from nnrepl.ops.case import Case, Index
from nnrepl.ops.entry import ELEMENTWISE, FIXED, WHOLE, Entry, Slope, enter, forwards
from nnrepl.ops.evaluated import Line
from nnrepl.ops.expression import Node, literal
from nnrepl.ops.numbers import element
from nnrepl.ops.pointwise import whole
from nnrepl.ops.traits import Trait


def _full(shape: Any, v: Any, dtype: Any = None) -> mx.array:
    # MLX ignores the dtype where the number is a tensor.
    return mx.broadcast_to(v if isinstance(v, mx.array) else mx.array(v, dtype or mx.array(v).dtype), shape)


for _name, _text, _run, _words in (
    ("zeros", "0", lambda shape, dtype=mx.float32: mx.full(shape, 0, dtype), "A tensor of zeros."),
    ("ones", "1", lambda shape, dtype=mx.float32: mx.full(shape, 1, dtype), "A tensor of ones."),
    ("zeros_like", "0", lambda a, dtype=None: mx.full(a.shape, 0, dtype or a.dtype), "Zeros in the shape of "
        "another tensor."),
    ("empty", "0", lambda shape, dtype=mx.float32: mx.full(shape, 0, dtype), "A tensor that is to be filled: MLX makes "
        "zeros."),
    ("empty_like", "0", lambda a, dtype=None: mx.full(a.shape, 0, dtype or a.dtype), "A tensor that is to be filled, "
        "in the shape of another: MLX makes zeros."),
    ("ones_like", "1", lambda a, dtype=None: mx.full(a.shape, 1, dtype or a.dtype), "Ones in the shape of "
        "another tensor."),
):  # fmt: skip
    _marks = {Trait.SOURCE, Trait.ZEROS} if _text == "0" else {Trait.SOURCE}
    enter(Entry(_name, _text, _words, _run, {}, FIXED, traits=frozenset(_marks)))


def _arange(*ends: Any, dtype: Any = None) -> mx.array:
    start, stop, step = (0, ends[0], 1) if len(ends) == 1 else (*ends, 1)[:3]
    whole = all(isinstance(end, int) for end in (start, stop, step))
    count = max(0, -int(-(stop - start) // step))
    numbers = mx.cumsum(mx.full((count,), step)) - step + start if count else mx.zeros((0,))
    return numbers.astype(dtype or (mx.int32 if whole else mx.float32))


enter(Entry("arange", "start + i · step", "Evenly spaced numbers.", _arange, {}, FIXED,
            traits=frozenset({Trait.SOURCE})))  # fmt: skip
enter(Entry(
    "eye", "[j = i + k]", "Ones on a diagonal, zeros elsewhere.",
    lambda n, m=None, k=0, dtype=mx.float32: (mx.arange(n)[:, None] + k == mx.arange(m or n)[None]).astype(dtype),
    {}, FIXED, traits=frozenset({Trait.SOURCE}),
))  # fmt: skip

_GIVEN = ("array", "from_dlpack", "load")
"""What comes from outside."""

for _name, _text, _words in (
    ("array", "numbers of the program's", "Numbers that came from Python or from a file."),
    ("from_dlpack", "numbers of another library's tensor", "Numbers that came from a tensor of another library."),
    ("load", "numbers of a file", "Numbers that came from a file."),
    ("random.normal", "loc + scale · n,  n from the bell curve", "Random numbers from the bell curve."),
    ("random.uniform", "low + (high − low) · u,  0 ≤ u < 1", "Random numbers, evenly spread between low and high."),
    ("random.bernoulli", "[u < p],  0 ≤ u < 1", "Random yes or no: yes with probability p."),
    ("random.randint", "low + ⌊u · (high − low)⌋", "Random whole numbers."),
    ("random.categorical", "argmax(logits + gumbel)", "Random choices, likelier where the logits are larger."),
    ("random.truncated_normal", "n, drawn again while outside of low..high", "The bell curve, cut off on both sides."),
    ("random.gumbel", "−ln(−ln(u))", "Random numbers from the Gumbel distribution."),
    ("random.permutation", "{a} in random order", "A random order."),
    ("random.key", "a key", "The start of a series of random numbers."),
    ("to_fp8", "the nearest 8-bit number", "Rounds to eight bits: four for the exponent, three for the digits."),
    ("from_fp8", "the same number in more bits", "Reads numbers of eight bits."),
    ("random.split", "several keys from one", "New keys for independent random numbers."),
):
    _drawn = _name.startswith("random.") and _name not in ("random.key", "random.split")
    _marks = {Trait.SOURCE, Trait.RANDOM} if _drawn else {Trait.SOURCE, Trait.GIVEN} if _name in _GIVEN else set()
    # Gradients reach the limits that a draw is given as tensors: loc and scale, low and high.
    _kind = WHOLE if _name in ("random.normal", "random.uniform", "random.truncated_normal") else FIXED
    enter(Entry(_name, _text, _words, None, {}, _kind, traits=frozenset(_marks)))

enter(
    Entry(
        "full",
        "v",
        "One number everywhere. The gradient of v should be the sum of g; MLX 0.32 multiplies it by v as well, "
        "which is "
        "only right for v = 1. Shown is what MLX does.",
        _full,
        {"v": Slope("g · v", lambda g, y, shape, v, dtype=None: g * v)},
        ELEMENTWISE,
        traits=frozenset({Trait.FILLS, Trait.SOURCE}),
    )
)

whole("full_like", "a, vals, dtype=None", "{vals} everywhere", "One number everywhere, in the shape of another tensor.",
      lambda *a, **k: mx.full_like(*a, **k), traits=(Trait.FILLS, Trait.SOURCE))  # fmt: skip
for _name, _parameters, _text, _words in (
    ("identity", "n, dtype=None", "[j = i]", "Ones on the diagonal, zeros elsewhere."),
    ("tri", "n, m=None, k=0, dtype=None", "[j ≤ i + {k}]", "Ones on and below a diagonal, zeros elsewhere."),
    ("linspace", "start, stop, num=50, endpoint=True, dtype=None", "{num} numbers from {start} to {stop}",
     "Evenly spaced numbers between two ends."),
    ("bartlett", "M", "a triangle of {M} numbers", "A window that rises and falls evenly."),
    ("hanning", "M", "0.5 − 0.5·cos(2π·i / ({M} − 1))", "A window in the shape of a cosine."),
    ("hamming", "M", "0.54 − 0.46·cos(2π·i / ({M} − 1))", "A window in the shape of a cosine that does not reach 0."),
    ("blackman", "M", "0.42 − 0.5·cos(2π·i / ({M} − 1)) + 0.08·cos(4π·i / ({M} − 1))", "A window of two cosines."),
    ("random.laplace", "shape=(), dtype=None, loc=0.0, scale=1.0, key=None", "loc + scale · l,  l from Laplace's "
     "distribution", "Random numbers: more often near the middle, and more often far out, than the bell curve."),
    ("random.multivariate_normal", "mean, cov, shape=(), dtype=None, key=None", "{mean} + L @ n,  L @ Lᵀ = {cov}, n "
     "from the bell curve", "Random vectors from the bell curve, whose numbers go along with each other."),
):  # fmt: skip
    _traits = (Trait.SOURCE, Trait.RANDOM) if _name.startswith("random.") else (Trait.SOURCE,)
    _place = mx.random if _name.startswith("random.") else mx
    _run = (lambda place, name: lambda *a, **k: getattr(place, name)(*a, **k))(_place, _name.removeprefix("random."))
    _kind = WHOLE if _name == "random.multivariate_normal" else FIXED
    whole(_name, _parameters, _text, _words, _run, kind=_kind, traits=_traits)


@forwards("arange")
def _arange_forward(case: Case, slot: int, index: Index) -> Line | None:
    ends = case.bound["ends"]
    if not all(isinstance(end, (int, float)) for end in ends):
        return None
    start, _, step = (0, ends[0], 1) if len(ends) == 1 else (*ends, 1)[:3]
    counted = product_of(literal(index[0]), literal(step))
    return Line(element(case.y[0].name, index), Node("sum", (literal(start), counted), "++"))
