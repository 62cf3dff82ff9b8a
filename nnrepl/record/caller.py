"""Caller: the same calls, made from elsewhere."""

from __future__ import annotations

from typing import Any

from nnrepl.tape import Activation


class Caller:
    """Gives the calls in which ops were made another caller: a compiled function is called from many places.

    Args:
        old: The call from which the ops were made.
        new: The call from which they are made now, and where in it.
    """

    def __init__(self, old: Activation | None, new: Activation | None, lasti: int) -> None:
        self._lasti = lasti
        self._known: dict[Activation | None, Activation | None] = {old: new}
        self._old, self._new = old, new

    def is_other(self, old: Activation | None, new: Activation | None, lasti: int) -> bool:
        """Whether this is not for these."""
        return new is not self._new or lasti != self._lasti or old is not self._old

    def scope(self, old: Activation | None) -> Activation | None:
        """Return the call that stands for `old`."""
        known = self._known
        found = known.get(old)
        if found is not None:
            return found
        missing: list[Activation] = []
        step = old
        while step not in known and step is not None:
            missing.append(step)
            step = step.parent
        if step not in known:
            return old  # not made from there
        for made in reversed(missing):
            parent = known[made.parent]
            lasti = self._lasti if parent is self._new else made.lasti
            known[made] = Activation(parent, made.code, lasti, made.owner, made.updating, self._globals(made.variables))
        return known[old]

    def _globals(self, old: dict[str, Any]) -> dict[str, Any]:
        """Return the global variables that stand for others: each run of a program has its own."""
        if self._old is None or self._new is None or old is self._new.variables:
            return old  # as mostly: in one run
        for before, now in zip(self._old.path(), self._new.path()):
            if before.variables is old and before.code == now.code:
                return now.variables
        return old

    def made(self, old: Activation) -> Activation | None:
        """Return the call that was made to stand for `old`; None if none was."""
        found = self._known.get(old)
        return None if found is self._new else found
