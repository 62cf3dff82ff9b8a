"""Limits: what numbers are held against, by `health` and by `why` alike."""

from __future__ import annotations

from collections.abc import Mapping

from nnrepl.classes import dataclass
from nnrepl.explain.look import Stat


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number above or below which something is reported, what it means, and where it comes from."""

    value: float
    means: str
    source: str


THRESHOLDS: dict[str, Threshold] = {
    "dead": Threshold(0.5, "share of ReLU units that are 0 for every row", "Lu et al. 2019, Dying ReLU: half of "
        "them costs capacity"),
    "dead-rows": Threshold(16, "rows that a unit must have seen to be called dead", "by chance, a unit is 0 for "
        "16 rows once in 65536"),
    "saturated": Threshold(0.75, "share of elements at the flat ends of tanh (|y| > 0.97) or sigmoid (y within "
                                 "0.01 of its ends)",
                           "Glorot & Bengio 2010"),
    "tiny": Threshold(1e-7, "norm of a gradient against that of its weight", "float32 rounds at 6e-8: such an "
        "update is lost"),
    "spread": Threshold(1e-6, "typical gradient of one weight matrix against the largest of all",
                        "Hochreiter 1991: vanishing gradients; six decades are beyond any learning rate"),
    "huge": Threshold(1e3, "norm of all gradients together", "Pascanu et al. 2013 clip at about 1"),
    "update": Threshold(0.5, "norm of an update against that of its weight", "cs231n: about 1e-3 is usual; half "
        "is a leap"),
    "idle": Threshold(1e-6, "norm of an update against that of all weights", "float32 rounds at 6e-8; cs231n: about "
        "1e-3 is usual"),
    "lost": Threshold(0.5, "share of elements whose update is lost to rounding", "IEEE 754: half precision has "
        "8 or 11 bits"),
}  # fmt: skip
"""What the checks hold numbers against; `health dead=0.9` sets one for one look."""


def usual() -> dict[str, float]:
    """Every threshold by its name."""
    return {name: threshold.value for name, threshold in THRESHOLDS.items()}


def is_lost(weight: Stat, gradient: Stat, top: float, limits: Mapping[str, float]) -> bool:
    """Whether a gradient is so small that its weight learns nothing.

    Args:
        weight: The weight, in a few numbers.
        gradient: Its gradient.
        top: A typical element of the largest gradient of the pass.
    """
    return gradient.typical < limits["spread"] * top or gradient.norm < limits["tiny"] * weight.norm
