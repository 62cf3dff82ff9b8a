"""Source: from a code object and an offset to the exact piece of text, and what is done with it.

Everything here is resolved when somebody looks, and cached by file and by code object.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterable, Iterator
from dataclasses import field
from types import CodeType

from nnrepl.classes import dataclass
from nnrepl.tape import Source

Span = tuple[int, int, int, int]
"""First line, last line, first and last column of a piece of source, in UTF-8 bytes as CPython counts."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a statement does with the value of an expression.

    Attributes:
        names: What it is assigned to; several for an unpacked tuple.
        returned: Whether the function returns it; `slot` is its place in a returned tuple, -1 outside.
        rows: Whether the names are for its rows (`for row in x`), not for itself.
        nested: The names in the first target, where that is a tuple itself: `(loss, aux), grads = ...`.
    """

    names: tuple[str | None, ...] = ()
    returned: bool = False
    slot: int = -1
    rows: bool = False
    nested: tuple[str | None, ...] = ()

    def target(self, slot: int, outputs: int) -> str | None:
        """Which of the names an output is assigned to, None if to none."""
        if len(self.names) == 1:
            return self.names[0]
        return self.names[slot] if slot < len(self.names) and (outputs > 1 or self.rows or slot == 0) else None


@dataclass(slots=True)
class CompiledCell:
    """A notebook cell that was compiled under a file name of its own."""

    path: str
    number: int
    text: str


@dataclass(slots=True)
class FileIndex:
    """What the expressions of one file are used for, by their exact span."""

    uses: dict[Span, list[Use]] = field(default_factory=dict)
    nodes: dict[Span, ast.AST] = field(default_factory=dict)
    returned: dict[int, set[str]] = field(default_factory=dict)
    """The variables that a function returns as they are, by the line on which the function begins."""
    stored: dict[tuple[int, str], str] = field(default_factory=dict)
    """Where a variable is put as it is (`state["m"] = m`), by the line on which the function begins and its name."""
    headers: dict[Span, Span] = field(default_factory=dict)
    """What stands before the body of a loop, of a `with` or of an `if`, by the span of the whole statement."""
    statements: list[tuple[int, int]] = field(default_factory=list)
    """The first and the last line of each statement."""
    tree: ast.Module | None = None


_cells: dict[str, CompiledCell] = {}
_indexes: dict[str, FileIndex] = {}
_spans: dict[CodeType, list[Span]] = {}
_former: dict[tuple[str, CodeType], str] = {}
"""The code of texts that a reload has replaced, and the name under which its text is kept."""


def register_cell(filename: str, path: str, number: int, text: str) -> None:
    """Make the source of a notebook cell known under the file name that it was compiled with."""
    _cells[filename] = CompiledCell(path, number, text)
    register_text(filename, text)


def supersede(filename: str, old: str, new: str, before: Iterable[CodeType], after: Iterable[CodeType]) -> None:
    """Note that a file has another text from now on. Code of the old one is still shown as it was written.

    Args:
        before, after: The code objects of both texts; those of which neither text has changed a thing are in both.
    """
    kept = f"{filename} ({hash(old):x})"
    register_text(kept, old)
    register_text(filename, new)
    for code in before:
        _former[filename, code] = kept
    for code in after:
        _former.pop((filename, code), None)


def register_text(filename: str, text: str) -> None:
    """Make source that lies in no file known under the file name that it was compiled with."""
    lines = text.splitlines(keepends=True)
    if lines and lines[-1] == lines[-1].rstrip("\r\n"):
        lines[-1] += "\n"  # as Python has the last line of a file: a traceback counts from it where its carets stand
    linecache.cache[filename] = (len(text), None, lines, filename)
    _indexes.pop(filename, None)


def file_of(code: CodeType) -> str:
    """Return the name for `lines_of` under which the text of some code is found, also where the file has changed
    since."""
    return _former.get((code.co_filename, code), code.co_filename) if _former else code.co_filename


def _cell(filename: str) -> CompiledCell | None:
    """Return the cell that was compiled under a file name, also one of a live notebook, which IPython has compiled."""
    return _cells.get(filename) or (_live_cell(filename) if "IPython" in sys.modules else None)


def _live_cell(filename: str) -> CompiledCell | None:
    get = getattr(sys.modules["IPython"], "get_ipython", None)
    shell = None if get is None else get()
    number = getattr(getattr(shell, "compile", None), "_filename_map", {}).get(filename)
    if not number:
        return None
    text = "".join(lines_of(filename))
    found = _cells[filename] = CompiledCell(live_name(shell), number, text)
    return found


def live_name(shell: object) -> str:
    """Return what a live notebook is called, as far as its front end tells; IPython's prompt is called so."""
    for name in ("__vsc_ipynb_file__", "__session__"):
        path = getattr(shell, "user_ns", {}).get(name)
        if isinstance(path, str) and path.endswith(".ipynb"):
            return path
    return "notebook" if hasattr(shell, "kernel") else "IPython"


def cell_of(code: CodeType) -> tuple[str, int]:
    """Return the notebook that some code comes from, and the number of its cell; `("", 0)` for other code."""
    cell = _cell(code.co_filename)
    return (cell.path, cell.number) if cell is not None and cell.number else ("", 0)


def cells_in(path: str) -> list[int]:
    """Return the numbers of the cells of a notebook."""
    return sorted(cell.number for cell in _cells.values() if cell.path == path and cell.number)


def beside(filename: str) -> list[str]:
    """Return the file names of all cells of the notebook to which a cell belongs; none for another file."""
    cell = _cells.get(filename)
    return [] if cell is None else [name for name, other in _cells.items() if other.path == cell.path]


def span_of(code: CodeType, lasti: int) -> Span:
    """Return the span of the instruction at `lasti`."""
    spans = _spans.get(code)
    if spans is None:
        spans = _spans[code] = [
            (line or 0, end or line or 0, -1 if column is None else column, -1 if last is None else last)
            for line, end, column, last in code.co_positions()
        ]
    # An instruction takes two bytes, and `co_positions` has an entry for each two, caches included.
    place = lasti // 2
    return spans[place] if 0 <= place < len(spans) else (code.co_firstlineno, code.co_firstlineno, -1, -1)


def lines_of(filename: str) -> list[str]:
    """Return the lines of a file, with their ends; empty if it cannot be read."""
    return linecache.getlines(filename)


def locate(code: CodeType, lasti: int) -> Source:
    """Return the piece of source at `lasti` of a code object."""
    line, end, column, last = span = span_of(code, lasti)
    if end > line and _stands_alone(code, span):  # to Python 3.11 a loop asks for its next item with all its body
        line, end, column, last = _index(file_of(code)).headers.get(span, span)
    lines = lines_of(file_of(code))[max(line - 1, 0) : end]
    text = ""
    if lines and column >= 0:
        column, last = _characters(lines[0], column), _characters(lines[-1], last)
        parts = [part.rstrip("\n") for part in lines]
        parts[-1] = parts[-1][:last]
        parts[0] = parts[0][column:]
        text = "\n".join(parts)
    elif lines:
        text = lines[0].strip()
    cell = _cell(code.co_filename)
    file, number = (cell.path, cell.number) if cell else (code.co_filename, 0)
    return Source(file, line, end, column, last, text, code.co_qualname, number)


def _stands_alone(code: CodeType, span: Span) -> bool:
    """Whether a span begins with a line, as a statement does."""
    lines = lines_of(file_of(code))[span[0] - 1 : span[0]]
    return bool(lines) and not lines[0].encode()[: span[2]].strip()


def _characters(line: str, column: int) -> int:
    """Return a column in characters from one in UTF-8 bytes."""
    return len(line.encode()[:column].decode(errors="replace"))


def uses_of(code: CodeType, span: Span) -> list[Use]:
    """Return what is done with the value of the expression at `span`."""
    return _index(file_of(code)).uses.get(span, [])


def returns(code: CodeType, name: str) -> bool:
    """Whether a function ends in `return name`."""
    return name in _index(file_of(code)).returned.get(code.co_firstlineno, ())


def stored(code: CodeType, name: str) -> str | None:
    """Where a function puts a variable as it is: `state.m` for `state["m"] = m`."""
    return _index(file_of(code)).stored.get((code.co_firstlineno, name))


def statements(code: CodeType) -> list[tuple[int, int]]:
    """Return the first and the last line of each statement in the file of a function."""
    return _index(file_of(code)).statements


def node_at(code: CodeType, span: Span) -> ast.AST | None:
    """Return the expression at `span`."""
    return _index(file_of(code)).nodes.get(span)


def nodes_of(code: CodeType) -> Iterator[ast.AST]:
    """Yield all that the file of a function holds."""
    tree = _index(file_of(code)).tree
    return iter(()) if tree is None else ast.walk(tree)


def way_to(code: CodeType, span: Span) -> list[ast.AST]:
    """Return the statement in which the expression at `span` stands, what is in it around that, and the expression
    itself; empty where there is no such expression."""
    node: ast.AST | None = _index(file_of(code)).tree
    way: list[ast.AST] = []
    while node is not None:
        node = next((child for child in _parts(node) if _holds(_span(child), span)), None)
        if node is not None:
            way = [node] if isinstance(node, ast.stmt) else [*way, node]
    while way and not (isinstance(way[-1], ast.expr) and _span(way[-1]) == span):
        way.pop()
    return way


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes in a node that have a place of their own."""
    for child in ast.iter_child_nodes(node):
        if hasattr(child, "lineno"):
            yield child
        else:
            yield from _parts(child)


def _holds(outer: Span, inner: Span) -> bool:
    return (outer[0], outer[2]) <= (inner[0], inner[2]) and (inner[1], inner[3]) <= (outer[1], outer[3])


def expression_around(code: CodeType, lasti: int) -> Span | None:
    """Return the span of the whole expression in which the instruction at `lasti` stands; None if it is in none."""
    line, end, column, last = span_of(code, lasti)
    around = [
        span
        for span in _index(file_of(code)).nodes
        if (span[0], span[2]) <= (line, column) and (end, last) <= (span[1], span[3])
    ]
    return max(around, key=lambda span: (-span[0], -span[2], span[1], span[3]), default=None)


def _index(filename: str) -> FileIndex:
    index = _indexes.get(filename)
    if index is None:
        index = _indexes[filename] = FileIndex()
        try:
            tree = ast.parse("".join(lines_of(filename)))
        except (SyntaxError, ValueError):
            return index
        index.tree = tree
        _Indexer(index).visit(tree)
    return index


def dotted(node: ast.AST | None) -> str | None:
    """`self.layers[0].weight` as `self.layers.0.weight`; None for what is not a plain path."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return None if base is None else f"{base}.{node.attr}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        base = dotted(node.value)
        return None if base is None else f"{base}.{node.slice.value!s}"
    return dotted(node.value) if isinstance(node, ast.Starred) else None


def called(node: ast.Call) -> str:
    """Return the last word of what is called: `matmul` for `mx.matmul(a, b)`."""
    func = node.func
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


class _Indexer(ast.NodeVisitor):
    """Walks a file once and notes what each expression is used for."""

    def __init__(self, index: FileIndex) -> None:
        self.index = index
        self.functions: list[int] = []

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, (ast.BinOp, ast.Call, ast.UnaryOp, ast.Compare, ast.Subscript, ast.Attribute)):
            self.index.nodes.setdefault(_span(node), node)
        if isinstance(node, ast.stmt):
            self.index.statements.append((node.lineno, node.end_lineno or node.lineno))
        if isinstance(node, (ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith)):
            line, _, column, _ = _span(node)
            _, end, _, last = _span(_header(node))
            self.index.headers[_span(node)] = (line, end, column, last)
        super().generic_visit(node)

    def _note(self, node: ast.AST, use: Use) -> None:
        """Note that the value of `node` is used so; that of a conditional comes from either branch."""
        if isinstance(node, ast.IfExp):
            self._note(node.body, use)
            self._note(node.orelse, use)
        elif isinstance(node, ast.NamedExpr):
            self._note(node.value, use)
        else:
            self.index.uses.setdefault(_span(node), []).append(use)

    def _bind(self, target: ast.AST, value: ast.AST) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            parts = target.elts
            if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(parts):
                for part, item in zip(parts, value.elts):
                    self._bind(part, item)
            else:
                names = tuple(dotted(part) for part in parts)
                nested = tuple(dotted(part) for part in getattr(parts[0], "elts", ())) if parts else ()
                self._note(value, Use(names, nested=nested))
                self._note(target, Use(names, rows=True))
        else:
            name = dotted(target)
            if name is not None:
                self._note(value, Use((name,)))
                if isinstance(value, ast.Name) and self.functions and not isinstance(target, ast.Name):
                    self.index.stored.setdefault((self.functions[-1], value.id), name)
            if isinstance(target, ast.Subscript):
                self._note(target, Use((dotted(target.value),)))

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._bind(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bind(node.target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._note(node.value, Use((node.target.id,)))
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.index.nodes[_span(node)] = node
        self._note(node, Use((dotted(node.target),)))
        if isinstance(node.target, ast.Subscript):
            self._note(node.target, Use((dotted(node.target.value),)))
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._return(node.value)
            if isinstance(node.value, ast.Name) and self.functions:
                self.index.returned.setdefault(self.functions[-1], set()).add(node.value.id)
        self.generic_visit(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # As `co_firstlineno`: a function begins with its first decorator.
        self.functions.append(min([node.lineno, *(part.lineno for part in node.decorator_list)]))
        self.generic_visit(node)
        self.functions.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._return(node.body)
        self.generic_visit(node)

    def _return(self, value: ast.AST) -> None:
        self._note(value, Use(returned=True))
        if isinstance(value, ast.Tuple):
            for slot, item in enumerate(value.elts):
                self._note(item, Use(returned=True, slot=slot))

    def visit_For(self, node: ast.For) -> None:
        self._rows(node, node.iter, node.target)
        self.generic_visit(node)

    def _rows(self, loop: ast.AST, iterated: ast.AST, target: ast.AST) -> None:
        use = Use((_first_name(target),), rows=True)
        self._note(loop, use)
        self._note(iterated, use)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        for part in node.generators:
            self._rows(node, part.iter, part.target)
        self.generic_visit(node)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension


def _first_name(target: ast.AST) -> str | None:
    """Return the name that a row is bound to; in `for i, row in enumerate(x)` the last one."""
    if isinstance(target, (ast.Tuple, ast.List)) and target.elts:
        return _first_name(target.elts[-1])
    return dotted(target)


def _header(node: ast.For | ast.AsyncFor | ast.While | ast.If | ast.With | ast.AsyncWith) -> ast.AST:
    """Return the last expression before the body of a statement."""
    if isinstance(node, (ast.For, ast.AsyncFor)):
        return node.iter
    if isinstance(node, (ast.While, ast.If)):
        return node.test
    return node.items[-1].optional_vars or node.items[-1].context_expr


def _span(node: ast.AST) -> Span:
    line = getattr(node, "lineno", 0)
    return (
        line,
        getattr(node, "end_lineno", line),
        getattr(node, "col_offset", -1),
        getattr(node, "end_col_offset", -1),
    )
