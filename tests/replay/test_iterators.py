"""Iterators made in C: what Python can copy is copied, any other refused by name, whatever its copying raises."""

from __future__ import annotations

import csv
import itertools
import re
import sys
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from nnrepl.replay.keepers import CannotKeep, copy_iterator

COPIED = [iter([1, 2, 3, 4]), map(abs, iter([1, 2, 3, 4])), itertools.count(1), map(int, itertools.count(1.0, 1.0))]
OF_ITERTOOLS = [itertools.cycle([1, 2, 3, 4]), itertools.chain([1, 2, 3, 4])]
"""What Python copied up to 3.13."""
REFUSED = [
    csv.reader(["1", "2"]), np.arange(3).flat, (k for k in range(3)), re.finditer("a", "aaa"),
    itertools.count(Fraction(1, 2)),
]  # fmt: skip
(COPIED if sys.version_info < (3, 14) else REFUSED).extend(OF_ITERTOOLS)


@pytest.mark.parametrize("iterator", COPIED)
def test_a_copy_gives_what_the_iterator_would_and_eats_nothing(iterator: Iterator[Any]) -> None:
    next(iterator)
    kept = copy_iterator(iterator)
    once, twice, itself = (list(itertools.islice(one, 9)) for one in (copy_iterator(kept), kept, iterator))
    assert once == twice == itself  # a cycle has begun anew by then
    assert once[:3] == [2, 3, 4]


@pytest.mark.parametrize("iterator", REFUSED)
def test_what_cannot_be_copied_is_named(iterator: Iterator[Any]) -> None:
    with pytest.raises(CannotKeep, match=r"^an? (iterator|generator)"):
        copy_iterator(iterator)


class Warns:
    """It says of itself what those of `itertools` do on Python 3.12 and 3.13."""

    def __reduce__(self) -> Any:
        warnings.warn("cannot be copied much longer", DeprecationWarning, stacklevel=2)
        return iter, ([1, 2],)


@pytest.mark.filterwarnings("error")
def test_python_warns_nobody_of_what_is_copied_for_the_replay() -> None:
    filters = warnings.filters
    for iterator in (Warns(), itertools.chain([1, 2]) if sys.version_info < (3, 14) else iter([1, 2])):
        assert list(copy_iterator(iterator)) == [1, 2]
    assert warnings.filters is filters
