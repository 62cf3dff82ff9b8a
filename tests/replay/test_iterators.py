"""Iterators made in C: what Python can copy is copied, any other refused by name, whatever its copying raises."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nnrepl.replay.keepers import CannotKeep, copy_iterator


@pytest.mark.parametrize(
    "iterator", [iter([1, 2, 3, 4]), map(abs, iter([1, 2, 3, 4])), itertools.count(1), itertools.cycle([1, 2, 3, 4])]
)
def test_a_copy_gives_what_the_iterator_would_and_eats_nothing(iterator: Iterator[Any]) -> None:
    next(iterator)
    kept = copy_iterator(iterator)
    once, twice, itself = (list(itertools.islice(one, 9)) for one in (copy_iterator(kept), kept, iterator))
    assert once == twice == itself  # a cycle has begun anew by then
    assert once[:3] == [2, 3, 4]


@pytest.mark.parametrize(
    "iterator", [csv.reader(["1", "2"]), np.arange(3).flat, (k for k in range(3)), re.finditer("a", "aaa")]
)
def test_what_cannot_be_copied_is_named(iterator: Iterator[Any]) -> None:
    with pytest.raises(CannotKeep, match=r"^an? (iterator|generator)"):
        copy_iterator(iterator)
