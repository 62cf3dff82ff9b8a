"""Comparing: a tape with arrays that were made elsewhere, or with another tape."""

from __future__ import annotations

import math
import shlex
from dataclasses import field
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.save_load import FILES, file_name
from nnrepl.commands.table import Grammar, command
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.tape import Value

if TYPE_CHECKING:
    from nnrepl.session.counterparts import Match, Matched, Stretch

USAGE = "FILE [tolerance 1e-5] [map NAME=KEY ...]"


@dataclass
class Wish:
    """What a `compare` line asks for: the file, the tolerance (None for the usual one) and the mapping."""

    path: str = ""
    tolerance: float | None = None
    mapping: dict[str, str] = field(default_factory=dict)


@command("compare", takes=Grammar(USAGE, lambda text: bool(text), "files"), group=FILES)
def compare_(it: Interpreter, text: str) -> RenderableType | None:
    """Compare with arrays made elsewhere, and name the first op that differs: `compare ref.safetensors`.

    The file holds named arrays, such as activations, weights and gradients of the same model in PyTorch, as
    safetensors or NumPy's `.npz`; or it is a tape that `save` wrote. They are matched with the values of this
    pass: by name, by the path of a parameter, by the path of a module (its output), also where case, `model.`
    or `.weight` differ; or as you say: `compare ref.npz map z1=hidden #12=scores`, all of a path
    (`map layers.*.attention=encoder.*.attn`), or `map names.txt`, a file of such lines. Transposed arrays are
    recognised. Gradients are called `fc1.weight.grad`.

    `tolerance 1e-3` is a share of the largest magnitude of each reference; it is 1e-5, or more for float16 and
    bfloat16. Only what is compared is evaluated, in batches.
    """
    from nnrepl.programs.named_arrays import open_reference
    from nnrepl.session.counterparts import match, stretch_for
    from nnrepl.session.reference import compare
    from nnrepl.view.compared import compare_view

    wish = _read(text)
    stretch = stretch_for(it.session.tape, it.session.cursor)
    if stretch is None:
        raise UserError("nothing has been recorded yet; step to the first op, then compare")
    if _is_tape(wish.path):
        return _with_tape(it, wish, stretch)
    reference = open_reference(wish.path)
    matched = match(it.session.lookup, stretch, reference.shapes, wish.mapping)
    if not matched.matches:
        raise UserError(_nothing(wish.path, matched))
    it.session.evaluate([value for found in matched.matches for value in found.possible])
    with aside():
        verdict = compare(matched.matches, reference.read, stretch, wish.tolerance)
        matched.unmatched.update(verdict.undecided)
        shown = compare_view(wish.path, verdict, matched, reference.unreadable)
    if stretch.open and it.session.running and matched.unmatched:
        note = f"the program stands at {stretch.ops[-1].label} of this pass: go on (continue, finish) and compare again"
        return Group(shown, Text(note, style="warning"))
    return shown


def _nothing(path: str, matched: Matched) -> str:
    """Why nothing could be compared."""
    if not matched.unmatched:
        return f"{path} holds no arrays"
    keys, names = (", ".join(list(some)[:4]) for some in (matched.unmatched, matched.missing))
    return (
        f"no array of {path} ({keys}, ...) has the name of a value of this pass ({names}, ...); "
        f"say which is which: compare {path} map NAME=KEY"
    )


def _read(text: str) -> Wish:
    """Read the line. Raises UserError."""
    from nnrepl.programs.named_arrays import read_mapping

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{text} cannot be read: {error}") from None
    wish = Wish(file_name(words[0]) if words else "")
    mapped: list[str] = []
    rest = words[1:]
    while rest:
        word = rest.pop(0)
        if word == "tolerance":
            wish.tolerance = _tolerance(rest.pop(0) if rest else "")
        elif word == "map":
            while rest and rest[0] != "tolerance":
                mapped.append(rest.pop(0))
            if not mapped:
                raise UserError("map needs NAME=KEY, or a file of such lines")
        else:
            raise UserError(f"compare does not know {word!r}; it is written: compare {USAGE}")
    wish.mapping = read_mapping(mapped)
    return wish


def _tolerance(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise UserError(f"a tolerance is a number such as 1e-5, not {word!r}")
    return number


# -- with another tape ------------------------------------------------------------------------------------------


def _is_tape(path: str) -> bool:
    from nnrepl.programs.arrays import read_header
    from nnrepl.programs.saved import find

    return find(path).endswith(".safetensors") and "nnrepl" in read_header(find(path)).metadata


def _with_tape(it: Interpreter, wish: Wish, stretch: Stretch) -> RenderableType:
    """Compare op by op with a saved tape of the same program."""
    from nnrepl.session.counterparts import TAPE, Match, Matched
    from nnrepl.session.reference import compare, in_order
    from nnrepl.timeline.compare import pairs_of
    from nnrepl.view.compared import compare_view

    if wish.mapping:
        raise UserError(f"{wish.path} is a saved tape: it is compared op by op, without map")
    from nnrepl.programs.saved import find, open_session

    other, _ = open_session(find(wish.path))
    paired = pairs_of(other.tape, it.session.tape)
    theirs: dict[str, Value] = {}
    matches: list[Match] = []
    seen: set[Value] = set()
    for old_op, new_op in paired.ops:
        for old, new in (*zip(old_op.inputs, new_op.inputs), *zip(old_op.outputs, new_op.outputs)):
            if new not in seen and old.evaluated and not new.refusal and new.kind != "seed":
                seen.add(new)
                key = f"{old_op.label}" if old.op is not None else old.name
                key = key if key not in theirs else f"{key} ({len(theirs)})"
                theirs[key] = old
                matches.append(Match(new, key, TAPE))
    if not matches:
        raise UserError(f"{wish.path} and this tape have no values in common")
    it.session.evaluate([found.value for found in matches])
    unmatched = {f"{op.label} {op.name}": "is not on this tape" for op in paired.alone[0][:1]}
    with aside():
        verdict = compare(in_order(matches, stretch), lambda key: theirs[key].array, stretch, wish.tolerance)
        return compare_view(wish.path, verdict, Matched(matches, unmatched, []), [])
