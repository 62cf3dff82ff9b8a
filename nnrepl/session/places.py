"""Places: the one grammar of what the user writes where a command wants a point on the tape.

`#12`, `train.py:31`, `31`, `loss_fn`, `Net.__call__`, `Net`, `train.py:loss_fn`, `layers.*.attention`, `matmul`, `z1`,
`grad(z1)`, `forward`, `start`, `end`, `step 30`, `30#12`, `loss < 0.5`, `matmul if z1.max() > 3`; and sequences, each
within the one before: `step 30 layers.1 softmax`.
"""

from __future__ import annotations

import ast
import builtins
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from nnrepl.record.gradient_names import without_sign
from nnrepl.record.stack import is_module
from nnrepl.session import entered, points
from nnrepl.session.conditions import condition, named_in, split_condition
from nnrepl.session.entered import InClass, InFunction, InModule, SourceLine
from nnrepl.session.errors import UserError, alike, meant
from nnrepl.session.lookup import NUMBER
from nnrepl.session.parsed import Parsed, dotted, parse
from nnrepl.session.place import Here, Place
from nnrepl.session.points import (
    Called,
    Condition,
    PassStart,
    Phase,
    StepStart,
    TurnStart,
    Within,
    Written,
    is_operation,
    operations,
)
from nnrepl.session.program import is_called, near
from nnrepl.tape import own_site

KINDS = (*points.WRITTEN, *entered.WRITTEN)
"""The kinds of places that are told by how they are written."""

FIXED = tuple(word for kind in KINDS for word in kind.fixed)
"""The places that every tape has."""

FORMS = "a place is #12, train.py:31, a value, a function, a class, a module path, an op such as matmul, or step 2"

_OPERATOR = re.compile(r"\s[-+*/@%&|^<>]{1,2}\s")  # with blanks around it: `layers.*` and `step -1` have none
_LINE = re.compile(r"(?P<file>.*?)(?: ?cell (?P<cell>\d{1,9}))?:(?P<line>\d{1,9})")
_SPACED = "|".join(re.sub(r"\?P<\w+>", "?:", rf"(?:{kind.form})(?!\S)") for kind in KINDS if " " in kind.form)
_TOKEN = re.compile(rf"(?:[^\s:]+ )?cell \d{{1,9}}:\d{{1,9}}(?!\S)|{_SPACED}|grad\((?:[^()]|\([^()]*\))*\)|\S+")


def base(path: str) -> str:
    """Return the name of a file, without its folders."""
    return os.path.basename(path)


def read(text: str, here: Here) -> Place:
    """Read a place.

    Raises:
        UserError: If nothing recorded and nothing in the program's source can be it; with what is near.
    """
    whole = parse(text)
    if whole.is_condition:
        return _condition(None, whole, here)
    if _OPERATOR.search(text) and isinstance(whole.expression, ast.BinOp):
        raise UserError(f"{text} is an expression, and no place; a condition compares it: {text} > 0; {FORMS}")
    spelled, asked = split_condition(whole.text)
    if not spelled:
        return _condition(None, condition(asked), here)
    place = _sequence(spelled, here)
    return _condition(place, condition(asked), here) if asked else place


def _sequence(text: str, here: Here) -> Place:
    whole = _LINE.fullmatch(text)
    if whole is not None and " " in whole["file"] and here.program.named(whole["file"]):
        return _line(whole, here)
    place: Place | None = None
    apart: dict[type[Place], Place] = {}
    for token in _TOKEN.finditer(text):
        word = token[0]
        if isinstance(place, StepStart) and word.startswith("#") and NUMBER.fullmatch(word) is not None:
            place = _word(f"{place.number}{word}", here)  # `step 30 #12` is 30#12
            continue
        inner = _word(word, here)
        alone = isinstance(inner, (Phase, StepStart, TurnStart, PassStart))
        other = apart.setdefault(type(inner), inner) if alone else inner
        if other.title != inner.title:
            raise UserError(f"no op is in {other.title} and in {inner.title}: one of them is enough")
        place = inner if place is None else Within(place, inner)
    if place is None:
        raise UserError(f"a place is missing; {FORMS}")
    return place


def _word(word: str, here: Here) -> Place:
    for kind in KINDS:
        written = re.fullmatch(kind.form, word)
        if written is not None:
            return kind.read(written, here)
    line = _LINE.fullmatch(word if not word.isdigit() else f":{word}")
    if line is not None:
        return _line(line, here)
    of = gradient_name(word)
    if of is not None:
        return _value(of, here)
    file, colon, name = word.rpartition(":")
    if colon:
        return _in_file(file, name, here)
    return _named(word, here)


def gradient_name(text: str) -> str | None:
    """`z1` for `grad(z1)` and `∂L/∂z1`; None for anything else."""
    found = re.fullmatch(r"grad\((.+)\)", text)
    if found is not None:
        return found[1].strip()
    return without_sign(text)


# -- lines ---------------------------------------------------------------------------------------------------


def _line(found: re.Match[str], here: Here) -> Place:
    """Return a line of a file; of the nearest file of the program, where none is named."""
    file, line, cell = found["file"], int(found["line"]), int(found["cell"] or 0)
    note = ""
    if not file:
        site = None if here.op is None else own_site(here.op, here.skip)
        source = None if here.op is None or site is None else _source(site)
        if source is None or site is None or not source.file:
            raise UserError(f"there is no file here of which {line} could be a line; an op is #{line}")
        file, cell = source.file, cell or source.cell
        if here.op is not None and here.op.scope is not site.scope:
            inner = here.op.source
            note = f"{line} is a line of {base(file)}; {base(inner.file)}:{line} would be one of the library"
    title = f"{here.program.short(file) if os.path.isabs(file) else file}{f' cell {cell}' if cell else ''}:{line}"
    if not cell:
        file = _checked(file, line, here)
    place = SourceLine(title, file, line, cell)
    place.note = note
    return place


def _source(site: Any) -> Any:
    from nnrepl.record import segments as sources

    return sources.locate(site.scope.code, site.lasti)


def _checked(file: str, line: int, here: Here) -> str:
    """Return the path of a file on whose line ops can be. Raises UserError."""
    paths = here.program.named(file)
    if not paths:
        known = sorted({os.path.basename(path) for path in here.program.files()})
        said = f"; the program's files are {', '.join(known[:6])}" if known else ""
        raise UserError(f"there is no file {file}{said}")
    for path in paths:
        lines = here.program.lines(path)
        if line in lines or not lines:
            return path
    name = os.path.basename(paths[0])
    offer = " or ".join(f"{name}:{number}" for number in near(here.program.lines(paths[0]), line))
    raise UserError(f"no op can come from line {line} of {name}; the nearest with code for ops: {offer}")


# -- names ---------------------------------------------------------------------------------------------------


def _in_file(file: str, name: str, here: Here) -> Place:
    """`train.py:loss_fn`, `train.py:Net`."""
    paths = here.program.named(file)
    if not paths:
        raise UserError(f"there is no file {file}, and no place is written {file}:{name}; {FORMS}")
    title = f"{os.path.basename(paths[0])}:{name}"
    if not name:
        raise UserError(f"{title} lacks what stands after the colon: a line (train.py:31) or a function")
    found = here.program.definition(name, paths[0])
    if found is not None and found.is_class:
        return InClass(title, name, paths[0])
    function = InFunction(title, name, paths[0])
    if found is None and function.first_after(here.tape, 0) is None:
        close = get_close_matches(name, here.program.defined(paths[0]), 1, 0.5)
        raise UserError(f"{os.path.basename(paths[0])} has no function or class {name}{meant(close)}")
    return function


def _named(word: str, here: Here) -> Place:
    """Return a word: what Python would say here first, then what MLX calls it. `layers[0]` is `layers.0`."""
    word = dotted(word)
    if here.names.versions(word) or (word == "loss" and any(pass_.loss is not None for pass_ in here.tape.passes)):
        return Written(word, word, here.names)
    for reader in (_defined, _module, _operation, _library, _inside, _assigned):
        place = reader(word, here)
        if place is not None:
            return place
    _missing_module(word, here)
    raise UserError(f"no op, value, function or module is called {word}{_suggested(word, here)}; {FORMS}")


def _defined(word: str, here: Here) -> Place | None:
    """Return a function or a class of the program."""
    if word.startswith("mx."):
        return None
    if any(is_called(name, word) for name in here.program.classes()):
        return InClass(word, word)
    known = any(is_called(name, word) for name in here.program.functions())
    return InFunction(word, word) if known else None


def _module(word: str, here: Here) -> Place | None:
    """Return a module by its path, bare or from a variable that holds its model."""
    path = word.rstrip(".")
    model, rest = _model(path, here)
    if model is not None:
        if not rest:
            return InModule(path, "", model)
        if any(_fits(known, rest) for known, _ in model.named_modules()):
            return InModule(path, rest, model)
    place = InModule(path, path)
    if place.first_after(here.tape, 0) is not None:
        return place
    return place if any(_fits(known, path) for known in _module_paths(here)) else None


def _model(path: str, here: Here) -> tuple[Any, str]:
    """Return the model that a path begins with, also in a list, a dict or an object of the program's, and the rest of
    the path; None if there is none."""
    first, *words = path.split(".")
    thing = here.variables.get(first)
    while thing is not None and not is_module(thing) and words:
        word = words.pop(0)
        if isinstance(thing, (list, tuple)):
            thing = thing[int(word)] if word.isdigit() and int(word) < len(thing) else None
        else:
            thing = (thing if isinstance(thing, dict) else getattr(thing, "__dict__", {})).get(word)
    return (thing, ".".join(words)) if thing is not None and is_module(thing) else (None, "")


def _missing_module(word: str, here: Here) -> None:
    """Raise UserError if a word is written as the path of a module, and its model has none there."""
    first = word.partition(".")[0]
    model, rest = _model(word, here)
    if model is not None and rest:
        stem = word.removesuffix(f".{rest}")
        raise _no_module(word, [stem, *(f"{stem}.{known}" for known, _ in model.named_modules() if known)])
    paths = _module_paths(here)
    if re.search(r"\.\d+(\.|$)", word) and any(known.split(".")[0] == first for known in paths):
        raise _no_module(word, paths)


def _fits(path: str, pattern: str) -> bool:
    return bool(path) and fnmatchcase(path, pattern)


def _no_module(path: str, known: list[str]) -> UserError:
    """Return the refusal of a module's path, with the modules that there are where it stops being one."""
    stem = path
    while stem and not any(f"{name}.".startswith(f"{stem}.") for name in known):
        stem = stem.rpartition(".")[0]
    under = {name for name in known if not stem or name.startswith(f"{stem}.")}
    depth = min((name.count(".") for name in under), default=0)  # a list of modules is none itself
    beside = sorted((name for name in under if name.count(".") == depth), key=_natural)
    if beside:
        there = f"there are {', '.join(beside[:8])}{', ...' if len(beside) > 8 else ''}"
    else:
        there = f"{stem or 'the model'} holds none. info parameters lists the weights, ops the ops"
    return UserError(f"there is no module {path}; {there}")


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(word), "") if word.isdigit() else (-1, word) for word in path.split(".")]


def _module_paths(here: Here) -> list[str]:
    """Return the paths of all modules in the models that are known here."""
    models: dict[int, Any] = {id(thing): thing for thing in here.variables.values() if is_module(thing)}
    scope = here.op.scope if here.op is not None else None
    for step in scope.path() if scope is not None else ():
        if is_module(step.owner):
            models.setdefault(id(step.owner), step.owner)
            break
    return [path for model in models.values() for path, _ in model.named_modules() if path]


def _operation(word: str, here: Here) -> Place | None:
    name = word.removeprefix("mx.")
    return Called(name) if is_operation(name, here.tape) else None


def _library(word: str, here: Here) -> Place | None:
    """Return a function or a class of a library from which ops have come."""
    for place in (InFunction(word, word), InClass(word, word)):
        if place.first_after(here.tape, 0) is not None:
            return place
    return None


def _inside(word: str, here: Here) -> Place | None:
    """`layers.1.weights`: a value that is made in a module, a function or a class."""
    outer, dot, name = word.rpartition(".")
    if not dot or not here.names.versions(name):
        return None
    for reader in (_defined, _module, _library):
        place = reader(outer, here)
        if place is not None:
            inside = Within(place, Written(name, name, here.names))
            return inside if inside.first_after(here.tape, 0) is not None else None
    return None


def _assigned(word: str, here: Here) -> Place | None:
    """Return a variable to which the program has yet to assign."""
    if not here.running or word.rpartition(".")[2] not in here.program.variables():
        return None
    place = Written(word, word, here.names)
    held = here.variables.get(word)
    if isinstance(held, (bool, int, float, str)):
        place.note = f"{word} is no tensor here, and no op makes it; a condition stops on its value: {word} == {held!r}"
    return place


def _value(name: str, here: Here) -> Place:
    """Return a gradient by the value whose it is."""
    known = here.names.versions(name) or (here.running and name.rpartition(".")[2] in here.program.variables())
    if not known and not (name == "loss" and here.tape.passes):
        close = alike(name, here.names.spellings())
        raise UserError(f"nothing is called {name}{meant([f'grad({other})' for other in close])}")
    return Written(f"grad({name})", name, here.names, gradient=True)


def _suggested(word: str, here: Here) -> str:
    candidates = [
        *here.names.spellings(), *here.program.functions(), *here.program.classes(), *_module_paths(here),
        *operations(here.tape), *FIXED,
    ]  # fmt: skip
    return here.names.elsewhere(word) or meant(get_close_matches(word, candidates, 1, 0.7))


# -- conditions ----------------------------------------------------------------------------------------------


def _condition(place: Place | None, asked: Parsed, here: Here) -> Place:
    """Return a condition at a place, or wherever what it names is made. Raises UserError if it cannot be asked."""
    _check_names(asked, here)
    plain, gradients = named_in(asked, here.names)
    if isinstance(place, Written) and place.key in (*plain, *(f"grad({name})" for name in gradients)):
        return Condition(asked.text, place, [place])  # it is asked of the value that has just been made
    if place is not None:
        return Condition(asked.text, place, None)
    made = [Written(name, name, here.names) for name in plain]
    made += [Written(f"grad({name})", name, here.names, gradient=True) for name in gradients]
    return Condition(asked.text, None, made)


def _check_names(asked: Parsed, here: Here) -> None:
    """Raise UserError if a condition speaks of something that nothing is, or will be, called."""
    coming: set[str] | None = None
    for mention in asked.mentions:
        path, first = mention.path, mention.first
        if first in asked.bound or not first.isidentifier() or first in here.variables or first in _KNOWN:
            continue
        words = path.split(".")
        if any(here.names.versions(".".join(words[:count])) for count in range(1, len(words) + 1)):
            continue
        coming = here.program.variables() | here.program.imported() if coming is None else coming
        if first not in coming and not any(is_called(name, first) for name in here.program.functions()):
            close = get_close_matches(first, [*here.variables, *here.names.spellings(), *coming], 1)
            raise UserError(f"nothing is called {path}{meant(close)}; a condition is Python, such as loss < 0.5")


_KNOWN = {*dir(builtins), "grad", "mx", "nn", "optim", "loss", "self"}


Reader = Callable[[str, Here], Place | None]
