"""Sources: where numbers come from. They depend on no tensor, so no gradient flows to anything."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import ELEMENTWISE, FIXED, Entry, Slope, enter
from nnrepl.ops.traits import Trait


def _full(shape: Any, v: Any, dtype: Any = None) -> mx.array:
    # MLX ignores the dtype where the number is a tensor.
    return mx.broadcast_to(v if isinstance(v, mx.array) else mx.array(v, dtype or mx.array(v).dtype), shape)


for _name, _text, _run, _words in (
    ("zeros", "0", lambda shape, dtype=mx.float32: mx.full(shape, 0, dtype), "A tensor of zeros."),
    ("ones", "1", lambda shape, dtype=mx.float32: mx.full(shape, 1, dtype), "A tensor of ones."),
    ("zeros_like", "0", lambda a, dtype=None: mx.full(a.shape, 0, dtype or a.dtype), "Zeros in the shape of "
        "another tensor."),
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

for _name, _text, _words in (
    ("array", "numbers of the program's", "Numbers that came from Python or from a file."),
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
    ("linalg.qr", "q, r with q @ r = a", "Splits a matrix into one with right angles and a triangular one."),
    ("random.split", "several keys from one", "New keys for independent random numbers."),
):
    _drawn = _name.startswith("random.") and _name not in ("random.key", "random.split")
    _marks = {Trait.SOURCE, Trait.RANDOM} if _drawn else {Trait.SOURCE} if _name == "array" else set()
    enter(Entry(_name, _text, _words, None, {}, FIXED, traits=frozenset(_marks)))

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
        traits=frozenset({Trait.SOURCE}),
    )
)
