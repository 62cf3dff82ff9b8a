"""What happened: ops, values, passes and the tape that they lie on. Knows nothing of recording."""

from nnrepl.tape.bindings import UNBOUND, Bindings, Holder, Large
from nnrepl.tape.face import Face, draw_with
from nnrepl.tape.native_run import ClosedCall, OpenedStep
from nnrepl.tape.notes import KEPT, Notes
from nnrepl.tape.op import (
    BACKWARD,
    FORWARD,
    PHASES,
    SETUP,
    UPDATE,
    BackwardOp,
    ClosedOp,
    DrawnKey,
    Op,
    Operation,
    arrays_of,
    fill,
)
from nnrepl.tape.origins import Activation, Source
from nnrepl.tape.passes import (
    GRADIENT_PASS,
    RUN_PASS,
    SETUP_PASS,
    UPDATE_PASS,
    Hole,
    Inside,
    Mark,
    Pass,
    inside_of,
    outermost,
    result_inside,
    samples_of,
)
from nnrepl.tape.sites import SKIPPED, Site, is_skipped, own_site
from nnrepl.tape.steps import Step, Steps
from nnrepl.tape.tape import Namer, OpSequence, Tape
from nnrepl.tape.value import LEAF_KINDS, Gradient, Leaf, Tangent, Value, is_evaluated

__all__ = [
    "BACKWARD",
    "FORWARD",
    "GRADIENT_PASS",
    "KEPT",
    "LEAF_KINDS",
    "PHASES",
    "RUN_PASS",
    "SETUP",
    "SETUP_PASS",
    "SKIPPED",
    "UNBOUND",
    "UPDATE",
    "UPDATE_PASS",
    "Activation",
    "BackwardOp",
    "Bindings",
    "ClosedCall",
    "ClosedOp",
    "DrawnKey",
    "Face",
    "Gradient",
    "Holder",
    "Hole",
    "Inside",
    "Large",
    "Leaf",
    "Mark",
    "Namer",
    "Notes",
    "Op",
    "OpSequence",
    "OpenedStep",
    "Operation",
    "Pass",
    "Site",
    "Source",
    "Step",
    "Steps",
    "Tangent",
    "Tape",
    "Value",
    "arrays_of",
    "draw_with",
    "fill",
    "inside_of",
    "is_evaluated",
    "is_skipped",
    "outermost",
    "own_site",
    "result_inside",
    "samples_of",
]
