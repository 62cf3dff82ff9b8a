"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest

from nnrepl.record.recorder import current


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Every test begins at the same random state, and leaves no recording behind."""
    mx.random.seed(0)
    yield
    assert current() is None
