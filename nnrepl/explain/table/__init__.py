"""The table of formulas, one module a topic. A new op's formula is one more entry in one of them."""

from __future__ import annotations

_loaded = False


def load() -> None:
    """Fill the table."""
    global _loaded
    if not _loaded:
        _loaded = True
        from nnrepl.explain.table import (  # noqa: F401
            comparing,
            convolutions,
            elementwise,
            fused,
            indexing,
            products,
            reductions,
            shapes,
            sources,
        )
