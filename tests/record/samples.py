"""Samples: all of them. See `tests.record.sample` for what one is."""

from __future__ import annotations

from tests.record import samples_math, samples_more
from tests.record.sample import SAMPLES, Sample

__all__ = ["SAMPLES", "Sample", "samples_math", "samples_more"]
