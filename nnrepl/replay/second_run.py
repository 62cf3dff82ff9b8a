"""Second run: what the changes of a block's first run do in its second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nnrepl.classes import dataclass
from nnrepl.record.custom import Rerun
from nnrepl.replay.match import Plan
from nnrepl.tape import Op, Tape, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


@dataclass(frozen=True, slots=True)
class InSecondRun:
    """Knows what changes do in a second run (`nnrepl.record.listener.KnowsChanges`).

    Attributes:
        plan: What the tape does from here on.
        take_effect: Lets one that is on the tape take effect.
    """

    recorder: Recorder
    plan: Plan
    take_effect: Callable[[Recorder, Op, Value], None]

    def waits(self, change: Op) -> bool:
        from nnrepl.replay.assigned_paths import lies_inside

        return lies_inside(self.recorder, change)

    def meant(self, change: Op, values: Sequence[Value]) -> Value:
        from nnrepl.replay.rebinding import Rebinding

        with self.recorder.muted():
            return next((value for value in values if Rebinding(self.recorder, change, value).found), values[-1])

    def effect(self, change: Op, target: Value) -> None:
        self.plan.stand_for(change.outputs[0], target)
        self.take_effect(self.recorder, change, target)


def in_repeated_block(tape: Tape, position: int) -> bool:
    """Whether a position lies in a function that runs twice, and no Python of it runs: a compiled function that has
    recorded it is repeated."""
    pass_ = tape.pass_at(position)
    for op in () if pass_ is None else pass_.ops:
        block = op.args[0] if op.args else None
        if isinstance(block, Rerun) and block.repeats is not None:
            again = block.again.ops if block.again is not None else ()
            if any(ops and ops[0].position <= position <= ops[-1].position for ops in (block.ops, again)):
                return True
    return False
