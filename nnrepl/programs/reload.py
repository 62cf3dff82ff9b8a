"""Reload: what has changed in the program's files, what of it can be taken over, and from where on.

A change is *quiet* where nothing that runs is made of it; *replayed* where a call is running that it changes: then
the program goes back to the entry of that call and comes forward again over the new source; *rude* where only a run
from the start can take it over: the level of a module or class, a constructor whose objects live.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from dataclasses import field
from importlib.util import decode_source
from pathlib import Path
from types import CodeType

from nnrepl.classes import dataclass
from nnrepl.programs.definitions import Definition, pairs_of
from nnrepl.programs.kept import Kept
from nnrepl.programs.patching import Patch, Version, changed, class_in, living, namespaces, new_constants
from nnrepl.record.segments import span_of
from nnrepl.session.errors import UserError
from nnrepl.session.standing import Standing
from nnrepl.tape import GRADIENT_PASS, Activation, Tape
from nnrepl.timeline.code import CodeChange

NOTHING = "nothing has changed in the program's files"


@dataclass
class SourceDifference:
    """What differs between the source that runs and the files.

    Attributes:
        patches: One for each file that says something else now.
        rude: What only a run from the start can take over, a line each.
        names: What changed, as timelines call it.
        adds: Whether constants have come with new names.
    """

    patches: list[Patch] = field(default_factory=list)
    rude: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    adds: bool = False

    @property
    def text(self) -> str:
        """`reload: Net.__call__, loss_fn`."""
        names = list(dict.fromkeys(self.names)) or ["module level"]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"reload: {', '.join(names[:3])}{more}"


@dataclass(frozen=True)
class HoldsFrom:
    """From where on a change holds.

    Attributes:
        position: The op.
        entering: Whether from the entry of the gradient call that begins there.
        call: What is entered again, "" where no call that is running changes.
    """

    position: int
    entering: bool = False
    call: str = ""


class Reloader:
    """Takes what has changed in the program's files into the program that waits.

    Args:
        kept: The source that runs.
        on_disk: Gives the text of a file as it is on disk; `read` unless the file is made of cells.
    """

    def __init__(self, kept: Kept, on_disk: Callable[[str], str] | None = None) -> None:
        self.kept = kept
        self._on_disk = on_disk or read
        self._stamps: dict[str, tuple[int, int]] = {}

    def notice(self, session: Standing) -> str:
        """Return that a file has changed since it was read, said once for each change; "" if none has."""
        fresh: list[str] = []
        for filename in list(self.kept.first):
            path = filename.rpartition("#")[0] or filename
            try:
                status = os.stat(path)
            except OSError:
                continue
            stamp = status.st_mtime_ns, status.st_size
            if self._stamps.setdefault(filename, stamp) != stamp:
                self._stamps[filename] = stamp
                fresh.append(filename)
        try:
            names = sorted({short(name) for name in fresh if self._on_disk(name) != self._texts(session)[name]})
        except UserError:
            return ""
        if not names:
            return ""
        has = "has" if len(names) == 1 else "have"
        return f"{', '.join(names)} {has} changed on disk; the program runs what it read, reload takes the change in"

    def _texts(self, session: Standing) -> dict[str, str]:
        """Return what the files say on the timeline that the user looks at."""
        texts = dict(self.kept.first)
        for code in session.edits.timelines.current.codes:
            texts.update(code.texts)
        return texts

    def read_again(self) -> None:
        """Note that the program is about to start anew, from its files as they are now.

        Raises:
            UserError: If a file no longer parses or is gone.
        """
        kept = self.kept
        texts = self._on_disk_now()
        patches = [
            self._patch(filename, kept.texts[filename], texts[filename]) for filename in _differing(kept.texts, texts)
        ]
        for patch in patches:
            patch.show()
            kept.keep(patch.new.filename, patch.new.text, kept.flags[patch.new.filename])
        kept.early.clear()

    def reload(self, session: Standing, everything: bool = False) -> list[str]:
        """Take what has changed over. Returns what to say where nothing was taken over.

        Args:
            everything: Whether to go back to the start, without a question, for what only that takes over.

        Raises:
            UserError: If a file no longer parses or is gone; then nothing has changed.
            RunAgain: Unwinds the program if it has to run again.
        """
        codes = session.edits.timelines.current.codes
        before = self._texts(session)
        texts = self._on_disk_now()
        difference = self._difference(before, texts)
        left = codes[-1].left if codes else ()
        if not difference.patches and not left:
            return [f"{NOTHING} but comments and layout" if _differing(before, texts) else NOTHING]
        rude = list(dict.fromkeys((*difference.rude, *left)))
        if everything or (rude and session.hooks.confirm(_question(session, rude))):
            return self._from_the_start(session, texts)
        if not difference.patches:
            return [NOTHING, *map(_not_taken, rude)]
        return self._in_place(session, difference, texts, rude)

    # -- what differs ----------------------------------------------------------------------------------------

    def _on_disk_now(self) -> dict[str, str]:
        """Return the text on disk of each file that the program has read. Raises UserError."""
        return {filename: self._on_disk(filename) for filename in list(self.kept.first)}

    def _difference(self, before: dict[str, str], after: dict[str, str]) -> SourceDifference:
        found = SourceDifference()
        for filename in _differing(before, after):
            patch = self._patch(filename, before[filename], after[filename])
            names = [one.name for one in (*changed(patch.old, patch.new), *patch.overrides)]
            rude = list(rude_changes(patch))
            gone = [one.name for one in patch.gone if one not in patch.overrides]
            adds = bool(new_constants(patch.old, patch.new))
            if names or rude or gone or adds:
                found.patches.append(patch)
                found.adds |= adds
                found.names += [name for name in names if "<lambda>" not in name] or names
                found.rude += [*rude, *(f"{name} is gone from the source, and stays as it was" for name in gone)]
        return found

    def _patch(self, filename: str, before: str, after: str) -> Patch:
        """From one version of a file to another. Raises UserError if that does not parse."""
        flags = self.kept.flags[filename]
        try:
            return Patch(Version(filename, before, flags), Version(filename, after, flags))
        except (SyntaxError, ValueError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            said = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UserError(f"{short(filename)}{line} does not parse: {said}; nothing has changed") from None

    # -- taking it over --------------------------------------------------------------------------------------

    def _in_place(
        self, session: Standing, difference: SourceDifference, texts: dict[str, str], rude: list[str]
    ) -> list[str]:
        place, early = place_of(session, difference)
        if not place.position:
            return self._from_the_start(session, texts)
        if not difference.names and not difference.adds:
            raise UserError("\n".join(map(_not_taken, rude)))
        said = [_taken(session, difference, place), *map(_not_taken, rude)]
        session.edits.reload(self._change(difference, place, early, said, rude))
        return []

    def _from_the_start(self, session: Standing, texts: dict[str, str]) -> list[str]:
        """Run the program again from its start, with all of the new source."""
        difference = self._difference(self.kept.first, texts)
        said = ["the program runs again from its start, with all of the new source"]
        session.edits.reload(self._change(difference, HoldsFrom(0), {}, said, []))
        return []

    def _change(
        self,
        difference: SourceDifference,
        place: HoldsFrom,
        early: dict[str, dict[CodeType, CodeType]],
        said: list[str],
        left: list[str],
    ) -> CodeChange:
        kept, patches = self.kept, difference.patches

        def prepare() -> None:
            for patch in patches:
                patch.begin()
            for filename, others in early.items():
                kept.early.setdefault(filename, {}).update(others)

        def take(alive: bool) -> None:
            for patch in patches:
                kept.texts[patch.new.filename] = patch.new.text
                kept.early.pop(patch.new.filename, None)
                patch.take() if alive else patch.show()

        def give_back(alive: bool) -> None:
            for patch in patches:
                kept.texts[patch.old.filename] = patch.old.text
                kept.early.pop(patch.old.filename, None)
                patch.give_back() if alive else patch.show(back=True)

        texts = {patch.new.filename: patch.new.text for patch in patches}
        return CodeChange(
            text=difference.text,
            said=tuple(said),
            position=place.position,
            entering=place.entering,
            texts=texts,
            left=tuple(left),
            early=bool(early),
            prepare=prepare,
            take=take,
            give_back=give_back,
        )


def _differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [filename for filename, text in after.items() if text != before.get(filename, text)]


def _not_taken(line: str) -> str:
    return f"not taken over: {line}; reload all does"


def read(filename: str) -> str:
    """Return the text of a Python file. Raises UserError."""
    try:
        return decode_source(Path(filename).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{short(filename)} is gone; nothing has changed") from None
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {short(filename)}: {reason}; nothing has changed") from None


def short(filename: str) -> str:
    """Return a file as one says it: its name, `lesson.ipynb cell 3` for a cell of a notebook."""
    name, _, cell = os.path.basename(filename).partition("#")
    return f"{name} cell {cell}" if cell else name


def _question(session: Standing, rude: list[str]) -> str:
    many = len(session.edits.timelines)
    tape = f"the {len(session.tape)} ops so far stay as timeline {many}" if len(session.tape) else "nothing is lost"
    return "\n".join([*rude, f"only a run from the program's start takes that over ({tape}). Run it again? [y/N] "])


def _taken(session: Standing, difference: SourceDifference, place: HoldsFrom) -> str:
    """Return what is taken over, and how."""
    names = ", ".join(dict.fromkeys(difference.names)) or "new names at the level of the module"
    if place.call:
        how = f"replayed from the entry of {place.call}"
    elif place.position < len(session.tape):
        how = f"from {session.tape.ops[place.position].label} on"
    else:
        how = "quiet: no call of it is running"
    return f"taken over: {names} ({how})"


# -- what is rude ----------------------------------------------------------------------------------------------


def rude_changes(patch: Patch) -> list[str]:
    """Return what only a run from the start can take over: what stands in modules and classes, constructors in use."""
    old, new = patch.old, patch.new
    added = {id(statement) for statement in new_constants(old, new)}
    found = _loose_changes(old.module, new.module, added, new, "module level")
    for a, b in pairs_of(old.definitions, new.definitions):
        if b.is_class:
            found += _loose_changes(a, b, set(), new, f"class level of {b.name}")
            if a.frame != b.frame:
                found.append(f"{_at(new, b.lines[0])}: the bases or decorators of {b.name}")
        elif b.variable in ("__init__", "__post_init__", "__new__", "setup") and a.own != b.own and b.outer is not None:
            count = _instances(new.filename, b.outer.name) if b.outer.is_class else 0
            if count:
                many = "lives, and keeps what it has" if count == 1 else "live, and keep what they have"
                found.append(f"{_at(new, b.lines[0])}: {b.name} is a constructor; {count} {b.outer.name} {many}")
    return found


def _loose_changes(old: Definition, new: Definition, added: set[int], version: Version, where: str) -> list[str]:
    before, after = _statements(old, set()), _statements(new, added)
    if [said for said, _ in before] == [said for said, _ in after]:
        return []
    known, still = [said for said, _ in before], [said for said, _ in after]
    fresh = [statement for said, statement in after if said not in known]
    gone = [statement for said, statement in before if said not in still]
    if fresh:
        return [f"{_at(version, one.lineno)}: {_line(one)} ({where})" for one in fresh[:3]]
    if gone:
        return [f"{short(version.filename)}: {_line(one)} is gone ({where})" for one in gone[:3]]
    return [f"{short(version.filename)}: statements stand in another order ({where})"]


def _statements(definition: Definition, added: set[int]) -> list[tuple[str, ast.stmt]]:
    return [(said, one) for said, one in definition.loose if id(one) not in added]


def _line(statement: ast.stmt) -> str:
    return ast.unparse(statement).split("\n", 1)[0][:60]


def _at(version: Version, line: int) -> str:
    return f"{short(version.filename)}:{line}"


def _instances(filename: str, path: str) -> int:
    """How many objects of a class live."""
    classes = [cls for cls in (class_in(space, path) for space in namespaces(filename)) if cls is not None]
    return sum(1 for cls in classes for thing in living(cls) if type(thing) is cls)


# -- from where on ---------------------------------------------------------------------------------------------


def place_of(session: Standing, difference: SourceDifference) -> tuple[HoldsFrom, dict[str, dict[CodeType, CodeType]]]:
    """From where on a change holds, and what of it from the start: definitions that lie ahead of a module that is
    still being run."""
    tape, cursor = session.tape, session.cursor
    at_end = cursor >= len(tape) - bool(session.running)
    path = [] if not tape.ops or (at_end and not session.running) else _path(tape, cursor)
    if at_end and session.failure is not None:
        path = _failed_path(tape, session.failure)
    early = _early(path, difference)
    places = [HoldsFrom(len(tape) if at_end else cursor)]
    pass_ = tape.pass_at(cursor)
    over = at_end and session.failure is not None and pass_ is not None and pass_.error is not session.failure
    if pass_ is not None and pass_.kind == GRADIENT_PASS and path and not over:
        places.append(HoldsFrom(pass_.start, True, pass_.title))
    places += [
        HoldsFrom(start, False, "the compiled function") for start, end in tape.compiled if start <= cursor < end
    ]
    running = _running(path, difference)
    if running is not None:
        places.append(HoldsFrom(_entry(session, running), False, running.code.co_qualname))
    return min(places, key=lambda place: (place.position, not place.entering)), early


def _path(tape: Tape, cursor: int) -> list[tuple[Activation, int]]:
    """Return the calls that are running at an op, outermost first, and where in each the next one is called."""
    op = tape.ops[min(cursor, len(tape) - 1)]
    calls = [] if op.scope is None else op.scope.path()
    return list(zip(calls, [*(call.lasti for call in calls[1:]), op.lasti]))


def _failed_path(tape: Tape, error: BaseException) -> list[tuple[Activation, int]]:
    """Return the calls that were running when the program failed and had made ops before."""
    step, failed = error.__traceback__, []
    while step is not None:
        failed.append((step.tb_frame.f_code, step.tb_lasti))
        step = step.tb_next
    calls = [] if not tape.ops or tape.ops[-1].scope is None else tape.ops[-1].scope.path()
    start = next((at for at, (code, _) in enumerate(failed) if calls and code is calls[0].code), len(failed))
    found: list[tuple[Activation, int]] = []
    rest = iter(failed[start:])
    for call in calls:  # nnrepl's own frames lie between
        lasti = next((lasti for code, lasti in rest if code is call.code), None)
        if lasti is None:
            break
        found.append((call, lasti))
    return found


def _early(path: list[tuple[Activation, int]], difference: SourceDifference) -> dict[str, dict[CodeType, CodeType]]:
    """Functions of a module that is still being run, which it has not made yet: they are made of the new source."""
    early: dict[str, dict[CodeType, CodeType]] = {}
    for call, lasti in path:
        patch = _patch_of(call, difference)
        if patch is None or call.code.co_name != "<module>":
            continue
        line = span_of(call.code, lasti)[1]
        for a, b in pairs_of(patch.old.definitions, patch.new.definitions):
            inner = a.outer is None or a.in_function or a.is_class
            if inner or a.lines[0] <= line or a.key not in patch.old.codes or b.key not in patch.new.codes:
                continue
            early.setdefault(patch.old.filename, {})[patch.old.codes[a.key]] = patch.new.codes[b.key]
    return early


def _running(path: list[tuple[Activation, int]], difference: SourceDifference) -> Activation | None:
    """Return the outermost call that is running and does something else in the new source, or would make a function of
    the old one."""
    for call, lasti in path:
        patch = _patch_of(call, difference)
        if patch is None or call.code.co_name == "<module>":
            continue
        line = span_of(call.code, lasti)[1]
        for a, b in pairs_of(patch.old.definitions, patch.new.definitions):
            if patch.old.codes.get(a.key) != call.code:
                continue
            if a.own != b.own or any(_is_made_later(x, y, line, patch) for x, y in _inside(a, b)):
                return call
        known = {a.key for a, _ in pairs_of(patch.old.definitions, patch.new.definitions)}
        if any(code == call.code for key, code in patch.old.codes.items() if key not in known):
            return call
    return None


def _inside(old: Definition, new: Definition) -> list[tuple[Definition, Definition]]:
    """Return the definitions inside of two versions of a function that does the same in both."""
    found = list(zip(old.inner, new.inner))
    return [*found, *(pair for a, b in found for pair in _inside(a, b))]


def _is_made_later(old: Definition, new: Definition, line: int, patch: Patch) -> bool:
    """Whether a call that is running may still make an inner function that changes, or cannot give it new code."""
    if old.own == new.own:
        return False
    before, after = (version.codes.get(one.key) for version, one in ((patch.old, old), (patch.new, new)))
    free = before is not None and after is not None and before.co_freevars == after.co_freevars
    return old.looped or old.lines[0] >= line or not free


def _patch_of(call: Activation, difference: SourceDifference) -> Patch | None:
    return next((patch for patch in difference.patches if patch.old.filename == call.code.co_filename), None)


def _entry(session: Standing, call: Activation) -> int:
    """Return the first op of a call that is running at the cursor."""
    tape = session.tape
    joints = set()
    timeline = session.edits.timelines.current
    while timeline.parent is not None and timeline.began is not None:
        joints.add(timeline.began.position)
        timeline = timeline.parent
    position = min(session.cursor, len(tape) - 1)
    while position > 0:
        scope = tape.ops[position - 1].scope
        calls = [] if scope is None else scope.path()
        found = [other for other in calls if other is call or (position in joints and _alike(other, call))]
        if not found:
            break
        call = found[0]
        position -= 1
    return position


def _alike(a: Activation, b: Activation) -> bool:
    """Whether two activations can stand for one call: a program that ran again has others from where it left the
    tape of before."""
    return [call.code for call in a.path()] == [call.code for call in b.path()]
