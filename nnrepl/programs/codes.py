"""Codes: the code objects and the calls of functions of a saved tape, read back."""

from __future__ import annotations

import inspect
import os
from itertools import count
from types import CodeType
from typing import Any, cast

from nnrepl.programs.standins import SavedCode, as_number, as_text, demand, owners
from nnrepl.record import segments as sources
from nnrepl.record.frame_variables import recall_variables
from nnrepl.tape import Activation

_LINES, LARGEST = 5_000_000, 2**62
"""A file says no more lines, and no greater number."""

_numbers = count(1)


class Codes:
    """The code objects of a file, and the lines of their sources."""

    def __init__(self, files: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        self._lines = 0
        self._files = [self._file(row) for row in files]
        self.codes = [self._code(row) for row in rows]

    def _file(self, row: dict[str, Any]) -> str:
        self._lines += as_number(row["count"], _LINES)
        demand(self._lines < _LINES)
        lines = [""] * row["count"]
        for number, text in row["lines"]:
            lines[as_number(number, len(lines) + 1, 1) - 1] = as_text(text, True).replace("\n", " ")
        path = as_text(row["path"])
        filename = f"<saved {next(_numbers)}>/{path}"  # what a path says of its file is asked of this name as well
        if row.get("standard") is True:
            filename = os.path.join(os.path.dirname(os.__file__), filename)
        text = "".join([line + "\n" for line in lines])
        sources.register_cell(filename, path, as_number(row["cell"], LARGEST), text)
        return filename

    def _code(self, row: dict[str, Any]) -> SavedCode:
        filename = self._files[as_number(row["file"], len(self._files))]
        places: list[sources.Span] = []
        for place in row["places"]:
            line, end, column, last = (as_number(part, 2**31, -1) for part in place)
            places.append((line, end, column, last))
        variables, free = (tuple([as_text(name) for name in row[kind]]) for kind in ("variables", "free"))
        plain, named = (as_number(count, len(variables) + 1) for count in row["arguments"])
        names = tuple([as_text(name) for name in row.get("names", [])])
        code = SavedCode(
            filename, as_text(row["name"]), as_text(row["function"]), as_number(row["line"], 2**31), plain, named,
            variables, free, names, inspect.CO_OPTIMIZED if row.get("optimized", True) else 0, places,
        )  # fmt: skip
        looked_at = [as_text(name) for name in row.get("looked_at", (*variables, *free))]
        recall_variables(cast(CodeType, code), tuple(looked_at))
        return code


class Scopes:
    """The calls of functions in which ops were made.

    Attributes:
        owners: Stand-ins for the modules of the program.
        variables: The global variables that the functions see, still empty.
    """

    def __init__(self, codes: list[SavedCode], document: dict[str, Any]) -> None:
        self.owners = owners(document["owners"], document["roots"], document.get("owned", []))
        self.variables: list[dict[str, Any]] = [{} for _ in document.get("globals", [])]
        self.scopes: list[Activation] = []
        for row in document["scopes"]:
            parent, place = None, 0
            if "place" in row:
                above, place = row["place"]
                parent = self.scopes[as_number(above, len(self.scopes))]
            owner = self.owners[as_number(row["owner"], len(self.owners))] if "owner" in row else None
            known = self.variables[as_number(row["globals"], len(self.variables))] if "globals" in row else None
            code = cast(CodeType, codes[as_number(row["code"], len(codes))])
            at = 2 * as_number(place, LARGEST)
            self.scopes.append(Activation(parent, code, at, owner, "updating" in row, known))
