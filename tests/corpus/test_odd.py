"""The odd programs: each in `nnrepl.trace`, and each recorded from its start."""

from __future__ import annotations

import pytest

from tests.corpus.checks import (
    check_receipt,
    check_receipt_at_once,
    check_tape,
    check_walk,
    compare,
    compare_as_script,
    some,
)
from tests.corpus.odd import PROGRAMS

everything = pytest.mark.parametrize("name", PROGRAMS)


@everything
def test_agrees_with_mlx(name: str) -> None:
    trace = compare(PROGRAMS[name].make)
    if trace is not None:
        check_tape(trace)
        check_walk(trace)
        check_receipt(trace)


@everything
def test_agrees_as_a_script(name: str) -> None:
    compare_as_script(PROGRAMS[name].make)


@pytest.mark.parametrize("name", some(list(PROGRAMS), 3))
def test_receipt_before_anything_is_evaluated(name: str) -> None:
    try:
        check_receipt_at_once(PROGRAMS[name].make)
    except AssertionError:
        raise
    except Exception:
        if compare(PROGRAMS[name].make) is not None:  # one that raises in plain MLX has no receipt
            raise
