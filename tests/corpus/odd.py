"""The odd programs, all together: what plain MLX does with them, nnrepl does, bit for bit."""

from __future__ import annotations

from tests.corpus import (
    odd_basics,
    odd_compiled,
    odd_control,
    odd_functions,
    odd_inplace,
    odd_later_runs,
    odd_models,
    odd_modules,
    odd_nested_effects,
    odd_numbers,
    odd_transforms,
    odd_transforms_alone,
)
from tests.corpus.programs import PROGRAMS

SECTIONS = (
    odd_basics,
    odd_compiled,
    odd_control,
    odd_functions,
    odd_inplace,
    odd_later_runs,
    odd_models,
    odd_modules,
    odd_nested_effects,
    odd_numbers,
    odd_transforms,
    odd_transforms_alone,
)

__all__ = ["PROGRAMS", "SECTIONS"]
