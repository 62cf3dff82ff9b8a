"""Parsed: a text of the prompt, read once. All that is told from its syntax is told by it, and it is what is evaluated.

What is not Python in it (`#12`, `z1@12`, `layers.0.weight`, `∂L/∂z1`, a `grad(z1)` that is assigned to) stands as one
name in the tree; which word that is, is known by its place.
"""

from __future__ import annotations

import ast
import copy
import dis
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import CodeType
from typing import TypeVar, cast

from nnrepl.classes import dataclass

_TOKEN = re.compile(
    r"""(?P<string>[rbfuRBFU]{0,2}(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))"""
    r"""|(?P<number>(?:(?<![\w.])(?:\d+|setup))?\#\d+(?:\.\d+)?)"""
    r"""|(?P<partial>∂[^/\s∂]+/∂)?(?<![\w.])(?P<path>[A-Za-z_]\w*(?:\.(?:[A-Za-z_]\w*|\d+))*)"""
    r"""(?P<version>@(?:(?:\d+|setup)?\#)?\d+\b)?""",
    re.DOTALL,
)
_WRONG = (SyntaxError, ValueError, RecursionError, MemoryError)
_LONGEST = 80

Words = Mapping[tuple[int, int], "Word"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the tape's, which Python cannot read.

    Attributes:
        text: The whole word.
        number: `#12`, `30#12.1`; "" for another.
        path: `z1`, `layers.0.weight`; the whole word where it is a gradient that is assigned to.
        version: `@12` after the path.
        partial: Whether `∂L/∂` stands before it.
    """

    text: str
    number: str = ""
    path: str = ""
    version: str = ""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Mention:
    """A name that is read in a text, with the attributes after it: `z1`, `model.layers`, `#12`.

    Attributes:
        node: Where it stands in the tree.
        path: As it is written.
        word: What it is, where that is no Python.
    """

    node: ast.expr
    path: str
    word: Word | None = None

    @property
    def first(self) -> str:
        """What stands before the first dot."""
        return self.path.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is assigned to what.

    Attributes:
        target: The whole left side.
        base, index: What is in front of the last `[...]` of it, and that; None where there is none.
        operator: That of `*=`; None for `=`.
        value: The right side.
    """

    target: Parsed
    base: Parsed | None
    index: ast.expr | None
    operator: ast.operator | None
    value: Parsed

    def whole(self) -> Parsed:
        """Return what the target becomes."""
        if self.operator is None:
            return self.value
        return self.value.of(ast.BinOp(self.target.only(), self.operator, self.value.only()))

    def key(self, holder: str) -> Parsed:
        """Return the index, of something else: `holder[index]`."""
        assert self.index is not None
        return self.value.of(ast.Subscript(ast.Name(holder, ast.Load()), self.index, ast.Load()))

    def combined(self, old: str, new: str) -> Parsed:
        """`old * new` for `*=`."""
        assert self.operator is not None
        left, right = (ast.Name(name, ast.Load()) for name in (old, new))
        return self.value.of(ast.BinOp(left, self.operator, right))


class Parsed:
    """A text of the prompt.

    Attributes:
        text: As it was typed, without the blanks around it.
        body: Its statements; empty where it does not parse.
        error: Why it does not parse; None where it does.
        words: What is no Python in it, by line and column of the tree.
        codes: What has been compiled of it, by what its mentions meant.
    """

    def __init__(
        self, text: str, body: list[ast.stmt], words: Words, flat: str, error: Exception | None = None
    ) -> None:
        self.text = text
        self.body = body
        self.words = words
        self.error = error
        self.codes: dict[object, tuple[CodeType, frozenset[str]]] = {}
        self._flat = flat

    def of(self, node: ast.expr, text: str = "") -> Parsed:
        """Return an expression made of parts of this one."""
        statement = ast.fix_missing_locations(ast.copy_location(ast.Expr(node), self.body[0]))
        return Parsed(text or self.text, [statement], self.words, self._flat)

    def part(self, node: ast.expr) -> Parsed:
        """Return a part of it, with its own text; one that is assigned to is one that is read."""
        text = self.cut(node)
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            fields = dict(ast.iter_fields(node)) | {"ctx": ast.Load()}
            node = ast.copy_location(type(node)(**fields), node)
        return self.of(node, text)

    def cut(self, node: ast.expr) -> str:
        """Return the piece of the text that a node of the tree stands for."""
        return self.text[self._at(node.lineno, node.col_offset) : self._at(node.end_lineno, node.end_col_offset)]

    def _at(self, line: int | None, column: int | None) -> int | None:
        """Where in the text a place of the tree is."""
        if line is None or column is None:
            return None
        lines = self._flat.split("\n")
        return sum(len(before) + 1 for before in lines[: line - 1]) + len(lines[line - 1].encode()[:column].decode())

    # -- what it is ----------------------------------------------------------------------------------------

    @property
    def is_python(self) -> bool:
        """Whether it parses, with the words of the tape."""
        return self.error is None

    @property
    def is_plain(self) -> bool:
        """Whether it is Python without any word of the tape."""
        return self.error is None and not self.words

    @cached_property
    def expression(self) -> ast.expr | None:
        """What it is, if it is one expression."""
        only = self.body[0] if len(self.body) == 1 else None
        return only.value if isinstance(only, ast.Expr) else None

    def only(self) -> ast.expr:
        """Return what it is, which must be one expression. Raises SyntaxError."""
        if self.error is not None:
            raise copy.copy(self.error)
        if self.expression is None:
            raise SyntaxError("it is no expression" if self.text else "there is no expression")
        return self.expression

    @property
    def is_condition(self) -> bool:
        """Whether it is a comparison, or several with `and`, `or`, `not`: no place on the tape is written so."""
        body = self.expression
        return isinstance(body, (ast.Compare, ast.BoolOp)) or (
            isinstance(body, ast.UnaryOp) and isinstance(body.op, ast.Not)
        )

    @property
    def speaks_of_a_name(self) -> bool:
        """Whether it speaks of something by name, so that its result can be shown under it: `loss.item()`, and not
        `6 * 7`, `"text"`, `[1, 2]`."""
        body = self.expression
        return body is not None and len(self.text) <= _LONGEST and any(isinstance(n, ast.Name) for n in ast.walk(body))

    def parts(self) -> list[Parsed]:
        """Return the expressions in `a, b[0], f(x, y)`: what `print` shows one by one."""
        body = self.expression
        if isinstance(body, ast.Tuple) and not self.text.startswith("("):
            return [self.part(node) for node in body.elts]
        return [self]

    @property
    def is_name(self) -> bool:
        """Whether it is one name of Python's."""
        return isinstance(self.expression, ast.Name)

    @property
    def statements(self) -> list[Parsed]:
        """Its statements, where it is several in one line (`a = 1; b = 2`); else none."""
        if len(self.body) < 2 or "\n" in self.text or any(hasattr(line, "body") for line in self.body):
            return []
        starts = [self._at(line.lineno, line.col_offset) or 0 for line in self.body]
        pieces = [self.text[start:end].rstrip().rstrip(";") for start, end in zip(starts, [*starts[1:], None])]
        return [parse(piece) for piece in pieces]

    @cached_property
    def assignment(self) -> Assignment | None:
        """The assignment to one target that it is; None for anything else."""
        statement = self.body[0] if len(self.body) == 1 else None
        operator: ast.operator | None = None
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        elif isinstance(statement, ast.AugAssign):
            target, operator = statement.target, statement.op
        else:
            return None
        if not isinstance(target, (ast.Name, ast.Attribute, ast.Subscript)):
            return None
        base = index = None
        if isinstance(target, ast.Subscript):
            base, index = self.part(target.value), target.slice
        return Assignment(self.part(target), base, index, operator, self.part(statement.value))

    # -- its names -----------------------------------------------------------------------------------------

    @cached_property
    def mentions(self) -> list[Mention]:
        """The names that are read in it, with the attributes after them, in the order in which they stand there."""
        return [found for statement in self.body for found in self._mentions(statement)]

    def _mentions(self, node: ast.AST) -> Iterator[Mention]:
        if isinstance(node, ast.Name):
            word = self.words.get((node.lineno, node.col_offset))
            if word is not None or isinstance(node.ctx, ast.Load):
                yield Mention(node, node.id if word is None else word.text, word)
            return
        path = self._path(node) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) else ""
        if path:
            assert isinstance(node, ast.Attribute)
            yield Mention(node, path)
            return
        for child in ast.iter_child_nodes(node):
            yield from self._mentions(child)

    def _path(self, node: ast.expr) -> str:
        """`a.b.c`, if a node is that; "" for another."""
        words: list[str] = []
        while isinstance(node, ast.Attribute):
            words.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or (node.lineno, node.col_offset) in self.words:
            return ""
        return ".".join([node.id, *reversed(words)])

    @cached_property
    def gradients(self) -> list[str]:
        """The names of whose gradients it speaks: `grad(z1)`, `∂L/∂z1`."""
        nodes = [node for statement in self.body for node in ast.walk(statement)]
        found = [dotted(self.cut(of)) for node in nodes if (of := _of_gradient(node)) is not None]
        return found + [word.path for word in self.words.values() if word.partial]

    @cached_property
    def gradient_calls(self) -> dict[ast.AST, ast.Call]:
        """The calls `grad(...)`, each by the name in it."""
        nodes = [node for statement in self.body for node in ast.walk(statement)]
        return {node.func: node for node in nodes if isinstance(node, ast.Call) and _of_gradient(node) is not None}

    @cached_property
    def plain_names(self) -> list[str]:
        """The paths that it mentions, those left out of whose gradients it speaks."""
        nodes = [node for statement in self.body for node in ast.walk(statement)]
        within = {inner for node in nodes if _of_gradient(node) is not None for inner in ast.walk(node)}
        mentioned = [
            found.path if found.word is None else found.word.path
            for found in self.mentions
            if found.node not in within and (found.word is None or (found.word.path and not found.word.partial))
        ]
        subscripted = [
            self.cut(node) for node in nodes if isinstance(node, (ast.Attribute, ast.Subscript)) and node not in within
        ]
        paths = [path for text in subscripted if (path := dotted(text)) != text]
        return [*mentioned, *(path for path in paths if not any(longer.startswith(f"{path}.") for longer in paths))]

    @cached_property
    def bound(self) -> frozenset[str]:
        """The names that the text itself gives a meaning, before (or, in a function, while) it reads them. What a
        single assignment gives a meaning to is read before that: `z1 = z1 * 2`."""
        only = self.body[0] if len(self.body) == 1 else None
        roots: list[ast.AST] = list(self.body)
        if isinstance(only, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            roots = [only.value] if only.value is not None else []
        return frozenset(name for root in roots for node in ast.walk(root) for name in _bound_by(node))

    @cached_property
    def read(self) -> frozenset[str]:
        """The names whose meaning it needs; `z1 *= 2` reads what it writes."""
        found: set[str] = set()
        for node in (inner for statement in self.body for inner in ast.walk(statement)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                found.add(node.id)
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
        return frozenset(found)


def parse(text: str) -> Parsed:
    """Read a text of the prompt."""
    text = text.strip()
    flat, words = _masked(text)
    tried = [(flat, words)]
    gradient = _assigned_gradient(text)
    if gradient:
        masked, inner = _masked(text[len(gradient) :])
        name = re.sub(r"\W", "_", gradient)
        moved = {(line, column + len(name.encode()) * (line == 1)): word for (line, column), word in inner.items()}
        tried.append((name + masked, {(1, 0): Word(gradient, path=gradient), **moved}))
    if words:
        tried.append((text, {}))  # what looks like a word of the tape stands in a comment
    failed: Exception | None = None
    for written, meant in tried:
        try:
            return Parsed(text, ast.parse(written, "<prompt>").body, meant, written)
        except _WRONG as error:
            # With its traceback it would hold every frame that waits, those of the program and their tensors.
            failed = failed or error.with_traceback(None)
    return Parsed(text, [], {}, text, failed)


_SUBSCRIPT = re.compile(r"""\[\s*(?:(-?\d+)|'([^'\[\]]*)'|"([^"\[\]]*)")\s*\]""")
_SUBSCRIPTED = re.compile(
    rf"""[A-Za-z_]\w*(?:\.\w+|{_SUBSCRIPT.pattern.replace("(-?", "(?:-?").replace("([^", "(?:[^")})+"""
)


def dotted(text: str) -> str:
    """Return a path in Python's spelling as the tape writes it: `model.layers[1].weight` is `model.layers.1.weight`.
    Any other text as it is."""
    if "[" not in text or not _SUBSCRIPTED.fullmatch(text):
        return text
    return _SUBSCRIPT.sub(lambda match: "." + (match[1] or match[2] or match[3] or ""), text)


def side_by_side(text: str) -> list[str]:
    """Expressions with nothing but blanks between them: `lg ld`, `loss * 2 val[0, 1]`; empty if it is not several."""
    found: list[str] = []
    words = text.split()
    while words:
        ends = [end for end in range(len(words), 0, -1) if parse(" ".join(words[:end])).expression is not None]
        if not ends:
            return []
        found.append(" ".join(words[: ends[0]]))
        words = words[ends[0] :]
    return found if len(found) > 1 else []


def masked(text: str) -> str:
    """Return the text with everything that is not Python replaced by names of the same length."""
    return _masked(text)[0]


def _masked(text: str) -> tuple[str, dict[tuple[int, int], Word]]:
    words: dict[tuple[int, int], Word] = {}
    pieces: list[str] = []
    end = 0
    for match in _TOKEN.finditer(text):
        word = _word(match)
        if word is None:
            continue
        pieces.append(text[end : match.start()])
        line = "".join(pieces).rpartition("\n")[2]
        words["".join(pieces).count("\n") + 1, len(line.encode())] = word
        pieces.append(re.sub(r"[^\w]|^\d", "_", match[0]))
        end = match.end()
    return "".join([*pieces, text[end:]]), words


def _word(match: re.Match[str]) -> Word | None:
    """Return the word of the tape's that a token is; None for Python."""
    if match["string"]:
        return None
    if match["number"]:
        return Word(match[0], number=match[0])
    path, version = match["path"], match["version"] or ""
    if match["partial"] or version or any(part.isdigit() for part in path.split(".")):
        return Word(match[0], path=path, version=version, partial=bool(match["partial"]))
    return None


def _assigned_gradient(text: str) -> str:
    """Return the `grad(...)` with which a text begins, if that is what it assigns to."""
    if not text.startswith("grad("):
        return ""
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if sign == ")" and depth == 0:
            return text[: at + 1] if re.match(r"[^=(]*=(?!=)", text[at + 1 :]) else ""
    return ""


def _of_gradient(node: ast.AST) -> ast.expr | None:
    """`z1` of `grad(z1)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "grad" and node.args:
        return node.args[0]
    return None


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node gives a meaning."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
        yield node.name


Node = TypeVar("Node", bound=ast.AST)


def replaced(node: Node, by: Mapping[ast.AST, ast.expr]) -> Node:
    """Return a tree with other expressions in the place of some; the given one stays as it is."""
    if node in by:
        return cast(Node, by[node])
    fields = {name: _replaced_in(field, by) for name, field in ast.iter_fields(node)}
    if all(new is old for new, (_, old) in zip(fields.values(), ast.iter_fields(node), strict=True)):
        return node
    return ast.copy_location(type(node)(**fields), node)


def _replaced_in(field: object, by: Mapping[ast.AST, ast.expr]) -> object:
    if isinstance(field, ast.AST):
        return replaced(field, by)
    if not isinstance(field, list):
        return field
    made = [_replaced_in(item, by) for item in field]
    return field if all(new is old for new, old in zip(made, field, strict=True)) else made


_REFERS = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_NAME", "STORE_GLOBAL", "DELETE_NAME",
           "DELETE_GLOBAL")  # fmt: skip


def names_of(code: CodeType) -> frozenset[str]:
    """Every variable outside of it that some Python refers to. What a comprehension or a lambda names itself is none,
    whatever the program calls so."""
    found = {str(each.argval) for each in dis.get_instructions(code) if each.opname in _REFERS}
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return frozenset(found).union(*map(names_of, inner))
