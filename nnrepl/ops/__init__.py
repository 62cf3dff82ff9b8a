"""What is known about each operation of MLX: its formula, its gradient, its traits, its words.

The ground floor: it knows MLX and nothing of tapes. One module a topic; a new op is one more entry in one of them.
"""

from __future__ import annotations

from nnrepl.ops import (  # noqa: F401
    attention,
    comparing,
    convolutions,
    elementwise,
    factors,
    fourier,
    indexing,
    lengths,
    linear_algebra,
    losses,
    norms,
    order,
    poles,
    products,
    quantized,
    reductions,
    shapes,
    sources,
    struck,
    totals,
)
from nnrepl.ops.entry import COMPOSITE, ELEMENTWISE, ENTRIES, FIXED, MOVE, PRODUCTS, WHOLE, Entry, Slope, every
from nnrepl.ops.traits import Trait

__all__ = [
    "COMPOSITE",
    "ELEMENTWISE",
    "ENTRIES",
    "FIXED",
    "MOVE",
    "PRODUCTS",
    "WHOLE",
    "Entry",
    "Slope",
    "Trait",
    "every",
    "has",
    "named",
]


def has(name: str, *traits: Trait) -> bool:
    """Whether an op, by its name on the tape, has one of these traits; one without an entry has none."""
    entry = ENTRIES.get(name)
    return entry is not None and not entry.traits.isdisjoint(traits)


def named(*traits: Trait) -> frozenset[str]:
    """Return the names of all ops that have one of these traits."""
    return frozenset(name for name, entry in ENTRIES.items() if not entry.traits.isdisjoint(traits))
