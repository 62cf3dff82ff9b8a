"""Reference: named arrays from somewhere else, to compare a tape with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import field

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.programs.arrays import SUFFIX, cannot_read, check_regular, read_header, read_npz
from nnrepl.session.errors import UserError


@dataclass
class Reference:
    """Named arrays in a file.

    Attributes:
        path: The file.
        shapes: The shape of each array.
        read: Gives an array by its name; it is read then.
        unreadable: Names whose dtype MLX does not have.
    """

    path: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], mx.array]
    unreadable: list[str] = field(default_factory=list)


def open_reference(path: str) -> Reference:
    """Return the arrays of a safetensors or NumPy (`.npz`) file.

    Raises:
        UserError: If it cannot be read, is damaged, or is another kind of file.
    """
    check_regular(path)
    if path.endswith((".pt", ".pth", ".bin", ".pkl", ".ckpt")):
        raise UserError(f"{path} may be a pickle, which could run code; write it with safetensors.torch.save_file")
    if path.endswith(".npz"):
        return _from_npz(path)
    if not path.endswith(SUFFIX):
        raise UserError(f"compare reads .safetensors and .npz files, not {path}")
    header = read_header(path)
    known = {name: entry for name, entry in header.entries.items() if not entry.dtype.startswith("F8")}

    def read(name: str) -> mx.array:
        array = header.array(name)
        assert array is not None
        return array

    unreadable = [name for name in header.entries if name not in known]
    return Reference(path, {name: entry.shape for name, entry in known.items()}, read, unreadable)


def _from_npz(path: str) -> Reference:
    arrays: dict[str, mx.array] = {}
    unreadable = []
    for name, member in read_npz(path).items():
        array = member()
        if array is None:
            unreadable.append(name)
        else:
            arrays[name] = array
    return Reference(path, {name: array.shape for name, array in arrays.items()}, arrays.__getitem__, unreadable)


def read_mapping(words: Iterable[str]) -> dict[str, str]:
    """Which name on the tape is which array of the file: from `NAME=KEY` words, or files of such lines, or files
    of one JSON table. Returns the name for each key.

    Raises:
        UserError: If a word or file says no such thing.
    """
    mapping: dict[str, str] = {}
    for word in words:
        if "=" in word:
            pairs: Iterable[tuple[str, str]] = [_pair(word, word)]
        else:
            pairs = _from_file(word)
        mapping.update({key: name for name, key in pairs})
    return mapping


def _pair(line: str, shown: str) -> tuple[str, str]:
    name, equals, key = line.partition("=")
    if not equals or not name.strip() or not key.strip():
        raise UserError(f"a mapping is NAME=KEY, the name on the tape first, not {shown!r}")
    return name.strip(), key.strip()


def _from_file(path: str) -> list[tuple[str, str]]:
    check_regular(path)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise cannot_read(path, error) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text: a mapping file has lines NAME=KEY") from None
    if text.lstrip().startswith("{"):
        try:
            table = json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(f"{path} is not valid JSON") from None
        if not all(isinstance(key, str) for key in table.values()):
            raise UserError(f"{path}: a mapping gives a key of the file for each name on the tape")
        return list(table.items())
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [_pair(line, f"{path}, line {number}") for number, line in lines]
