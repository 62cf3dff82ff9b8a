"""Counterparts: which value of a pass an array from elsewhere is, by its name and shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import permutations

from nnrepl.classes import dataclass
from nnrepl.session.errors import UserError
from nnrepl.session.lookup import Lookup
from nnrepl.tape import BACKWARD, GRADIENT_PASS, RUN_PASS, Op, Tape, Value

Shape = tuple[int, ...]

GIVEN, NAME, PATH, SIMILAR, MODULE, TAPE = "as mapped", "by name", "by path", "by a similar path", "as output of", "op"

_SEVERAL = 8
"""So many values of one name are tried."""

_PREFIX = re.compile(r"^(?:(?:model|module|self|_orig_mod|transformer)\.)+")
_SUFFIX = re.compile(r"(?:\.(?:weight|output|out|activation|result))+$")
_GRADIENT = re.compile(r"(?:grad\((?P<a>.+)\)|∂L/∂(?P<b>.+)|(?P<c>.+)[._]grad|grad[._](?P<d>.+))")


@dataclass(frozen=True, slots=True)
class Match:
    """An array of a file and a value of the tape.

    Attributes:
        value: The value.
        key: What the array is called in the file.
        how: One of the words above.
        others: What else it could be: later values of the same name, of which the one that agrees is meant.
    """

    value: Value
    key: str
    how: str
    others: tuple[Value, ...] = ()

    @property
    def possible(self) -> tuple[Value, ...]:
        """Every value that it could be, in order."""
        return (self.value, *self.others)

    @property
    def at_once(self) -> bool:
        """Whether all that it could be is one variable of one call of a function."""
        scopes = {None if value.op is None else value.op.scope for value in self.possible}
        return len(scopes) == 1 and None not in scopes


@dataclass
class Matched:
    """What was found.

    Attributes:
        matches: In order of execution.
        unmatched: The other arrays of the file, and why.
        missing: The named values of the pass that the file does not have.
    """

    matches: list[Match]
    unmatched: dict[str, str]
    missing: list[str]


def arrangements(ours: Shape, theirs: Shape) -> list[tuple[int, ...]]:
    """Return the orders of their axes that give our shape, the usual ones first; `()` for a mere reshape."""
    if ours == theirs:
        return [tuple(range(len(ours)))]
    found: list[tuple[int, ...]] = []
    if len(ours) == len(theirs) <= 5 and sorted(ours) == sorted(theirs):
        found = [order for order in permutations(range(len(ours))) if tuple(theirs[axis] for axis in order) == ours]
    if not found and _size(ours) == _size(theirs):
        found = [()]
    return found[:6]


def _size(shape: Shape) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _fit(ours: Shape, theirs: Shape) -> int:
    """How well two shapes go together: 2 equal, 1 in another arrangement, 0 not at all."""
    return 2 if ours == theirs else int(bool(arrangements(ours, theirs)))


def normal(path: str) -> str:
    """Return a path without what differs between frameworks: case, `model.` in front, the spelling of indexes."""
    plain = re.sub(r"\[(\d+)\]", r".\1", path.lower().replace("/", "."))
    return _PREFIX.sub("", plain)


def similar(path: str) -> str:
    """Return a path without `.weight` and the like after it, and without its signs of separation."""
    return re.sub(r"[._]", "", _SUFFIX.sub("", normal(path)))


@dataclass(frozen=True, slots=True)
class Stretch:
    """The ops that a reference is about: a gradient pass, or the forward passes at the top level that follow each
    other (a compiled function makes several of one run).

    Attributes:
        start, end: Their positions.
        open: Whether they are still being recorded.
    """

    tape: Tape
    start: int
    end: int
    open: bool

    @property
    def ops(self) -> list[Op]:
        """The ops in order of execution."""
        return self.tape.ops[self.start : self.end]


def stretch_for(tape: Tape, cursor: int) -> Stretch | None:
    """Return the one with the cursor, if it computes forward; else the last such one before, or the next."""
    passes = [pass_ for pass_ in tape.passes if len(pass_)]
    if not passes:
        return None
    forward = [pass_ for pass_ in passes if pass_.kind in (GRADIENT_PASS, RUN_PASS)] or passes
    chosen = [pass_ for pass_ in forward if pass_.start <= cursor][-1:] or forward[:1]
    first = last = passes.index(chosen[0])
    if chosen[0].kind == RUN_PASS:
        while first > 0 and passes[first - 1].kind == RUN_PASS:
            first -= 1
        while last + 1 < len(passes) and passes[last + 1].kind == RUN_PASS:
            last += 1
    return Stretch(tape, passes[first].start, passes[last].end, passes[last].open)


class Candidates:
    """The values of a pass by everything that an array from elsewhere could call them."""

    def __init__(self, lookup: Lookup, stretch: Stretch) -> None:
        self._lookup = lookup
        self._stretch = stretch
        self.exact: dict[str, list[Value]] = {}
        self.modules: dict[str, list[list[Value]]] = {}
        self._collect()
        self._normal = _grouped(self.exact, normal)
        self._similar = _grouped(self.exact, similar)

    def _collect(self) -> None:
        names = self._lookup.names
        for name in names.known():
            for value in self._of_pass(names.versions(name)):
                self._enter(name, value)
        calls: dict[str, dict[object, list[Value]]] = {}
        for op in self._stretch.ops:
            if op.phase == BACKWARD:
                continue
            module = op.module
            for value in op.outputs:
                for name in names.all_names(value):
                    if module and not name.startswith(module):
                        self._enter(f"{module}.{name}", value)
            for path, scope in names.calls(op):
                calls.setdefault(path, {}).setdefault(scope, []).extend(op.outputs)
        self.modules = {path: [made[::-1] for made in found.values()] for path, found in calls.items() if path}

    def _of_pass(self, versions: list[tuple[int, Value]]) -> list[Value]:
        """Return the versions of a name that belong to the pass; without any, the newest one before it."""
        stretch = self._stretch
        found = [value for at, value in versions if stretch.start <= at <= stretch.end and self._belongs(value)]
        before = [value for at, value in versions if at <= stretch.start]
        return found or before[-1:]

    def _belongs(self, value: Value) -> bool:
        return value.op is None or self._stretch.start <= value.op.position < self._stretch.end

    def _enter(self, name: str, value: Value) -> None:
        values = self.exact.setdefault(name, [])
        if value not in values:
            values.append(value)

    def find(self, key: str, shape: Shape) -> Match | str:
        """Return the value that a key means, or why there is none."""
        groups = (
            (NAME, self.exact.get(key, [])),
            (MODULE, self._module(key, shape, str)),
            (PATH, self._normal.get(normal(key), [])),
            (MODULE, self._module(normal(key), shape, normal)),
            (SIMILAR, self._similar.get(similar(key), [])),
            (MODULE, self._module(similar(key), shape, similar)),
        )
        reason = "nothing on the tape is called so"
        for at, (how, values) in enumerate(groups):
            best = max((_fit(value.shape, shape) for value in values), default=0)
            fitting = [value for value in values if _fit(value.shape, shape) == best] if best else []
            if len(fitting) == 1 or (fitting and how == MODULE):
                return Match(fitting[0], key, how)
            if 0 < len(fitting) <= _SEVERAL:
                return Match(fitting[0], key, how, tuple(fitting[1:]))
            if fitting:
                return ambiguous(key, fitting)
            if len(values) == 1 and at < 4:
                return Match(values[0], key, how)
            if values:
                reason = f"no value of this name goes together with the shape {shape}"
        return reason

    def _module(self, key: str, shape: Shape, form: object) -> list[Value]:
        """Return the output of the last call of a module: the last value made in it, or the last one of that shape."""
        for path, calls in self.modules.items():
            if form(path) == key:  # type: ignore[operator]
                made = calls[-1]
                best = max(_fit(value.shape, shape) for value in made)
                if _fit(made[0].shape, shape) == best or not best:
                    return made[:1]
                return [next(value for value in made if _fit(value.shape, shape) == best)]
        return []

    def named(self) -> Iterator[Value]:
        """Yield the values of the pass that have a name of their own: results, parameters, inputs."""
        seen: set[Value] = set()
        for op in self._stretch.ops:
            if op.phase == BACKWARD:
                break
            for value in (*op.inputs, *op.outputs):
                if value not in seen and not value.name.startswith("#") and value.kind not in ("constant", "seed"):
                    seen.add(value)
                    yield value


def ambiguous(key: str, values: Sequence[Value]) -> str:
    """Return what to say where it cannot be told which value is meant."""
    numbers = [f"{value.op.label}" for value in values if value.op is not None]
    shown = ", ".join(numbers[:4]) + (", ..." if len(numbers) > 4 else "")
    first = numbers[0] if numbers else values[0].name
    return f"it could be any of {shown or 'several values'}: map {first}={key} says which"


def _grouped(exact: dict[str, list[Value]], form: object) -> dict[str, list[Value]]:
    groups: dict[str, list[Value]] = {}
    for name, values in exact.items():
        group = groups.setdefault(form(name), [])  # type: ignore[operator]
        group.extend(value for value in values if value not in group)
    return groups


def match(lookup: Lookup, stretch: Stretch, shapes: Mapping[str, Shape], mapping: Mapping[str, str]) -> Matched:
    """Find the value for each array.

    Args:
        stretch: The pass, or what stands for one, that the arrays are about.
        shapes: The shape of each array.
        mapping: For some arrays, the name that the user gave.

    Raises:
        UserError: If a given name or key does not exist.
    """
    renamed = MappedPaths(mapping, shapes)
    candidates = Candidates(lookup, stretch)
    matches: list[Match] = []
    unmatched: dict[str, str] = {}
    for key, shape in shapes.items():
        found = _one(lookup, stretch, candidates, key, shape, renamed)
        if isinstance(found, Match) and any(value.refusal for value in found.possible):
            unmatched[key] = found.value.refusal or found.others[0].refusal
        elif isinstance(found, Match):
            matches.append(found)
        else:
            unmatched[key] = found
    matches.sort(key=lambda found: order(found.value, stretch))
    taken = {found.value for found in matches}
    missing = list(dict.fromkeys(value.name for value in candidates.named() if value not in taken))
    return Matched(matches, unmatched, missing)


class MappedPaths:
    """What the user says that arrays are called on the tape: one by one, or for all of a path
    (`layers.*.attention=encoder.*.attn`).

    Raises:
        UserError: If the file has nothing of a name.
    """

    def __init__(self, mapping: Mapping[str, str], shapes: Mapping[str, Shape]) -> None:
        self._whole = {key: name for key, name in mapping.items() if key in shapes}
        self._paths = [(_path_pattern(key), name) for key, name in mapping.items() if key not in shapes]
        for (pattern, _), key in zip(self._paths, [key for key in mapping if key not in shapes]):
            if not any(pattern.fullmatch(other) for other in shapes):
                raise UserError(f"the file has no array called {key}{_close(key, shapes)}")

    def given(self, key: str) -> tuple[str, bool] | None:
        """Return the name that was given, and whether it was given to this very array."""
        if key in self._whole:
            return self._whole[key], True
        for pattern, name in self._paths:
            found = pattern.fullmatch(key)
            if found is not None:
                *stars, rest = found.groups()
                for star in stars:
                    name = name.replace("*", star, 1)
                return name + (rest or ""), False
        return None


def _path_pattern(key: str) -> re.Pattern[str]:
    return re.compile(re.escape(key).replace(r"\*", r"([^.]+)") + r"(\..*)?")


def _one(
    lookup: Lookup, stretch: Stretch, candidates: Candidates, key: str, shape: Shape, renamed: MappedPaths
) -> Match | str:
    given = renamed.given(key)
    if given is not None:
        name, exactly = given
        known = candidates.find(name, shape)
        if isinstance(known, Match) and not known.others:
            return replace(known, key=key, how=GIVEN)
        try:
            return Match(lookup.by_words(name, stretch.end), key, GIVEN)
        except UserError:
            if exactly:
                raise
            return f"mapped to {name}, and nothing on the tape is called so"
    found = candidates.find(key, shape)
    if isinstance(found, Match):
        return found
    try:
        return Match(lookup.by_words(key, stretch.end), key, NAME)
    except UserError:
        pass  # `loss`, `#12`, `grad(w)` are names at the prompt; this is none
    gradient = _GRADIENT.fullmatch(key)
    of = candidates.find(next(filter(None, gradient.groups())), shape) if gradient is not None else None
    if isinstance(of, Match):
        try:
            return Match(lookup.gradient(of.value, stretch.end), key, of.how)
        except UserError as error:
            return str(error)
    return found


def order(value: Value, stretch: Stretch) -> tuple[int, int]:
    """Where a value comes in the order of execution: a leaf, before the first op of the pass that takes it."""
    if value.op is not None and value.op.position >= stretch.start:
        return value.op.position, 1
    return next((op.position for op in stretch.tape.consumers(value) if op.position >= stretch.start), stretch.start), 0


def _close(name: str, known: Mapping[str, Shape]) -> str:
    close = get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def region(value: Value, sure: set[Value], stretch: Stretch) -> list[Op]:
    """Return the ops of a pass between what is known to be right and a value, in order: those it is made by."""
    found: set[Op] = set()
    pending = [value]
    while pending:
        op = pending.pop().op
        if op is None or op in found or op.position < stretch.start:
            continue
        found.add(op)
        pending.extend(taken for taken in op.inputs if taken not in sure)
    return sorted(found, key=lambda op: op.position)


def computing(ops: list[Op]) -> list[Op]:
    """Those that do more than arrange elements anew; all of them, if none does."""
    from nnrepl.ops import Trait, has  # the first prompt does not wait for the table

    return [op for op in ops if not has(op.root.operation.name, Trait.ARRANGES)] or ops
