"""Arrays: reading named arrays from files of strangers. Nothing in a file is trusted, and none of it is run."""

from __future__ import annotations

import array as numbers
import json
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.late import late
from nnrepl.session.errors import UserError

SUFFIX = ".safetensors"

SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
"""The bytes of one element of each dtype of the format."""

DTYPES = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "F16": mx.float16,
    "BF16": mx.bfloat16, "U32": mx.uint32, "I32": mx.int32, "F32": mx.float32, "U64": mx.uint64,
    "I64": mx.int64, "C64": mx.complex64,
}  # fmt: skip
"""Those that MLX has as they are."""

_HEADER_LIMIT = 100_000_000  # the format's own
_EXTENT_LIMIT = 2**31
_SIZE_LIMIT = 2**48


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in a safetensors file: its dtype in the format's spelling, its shape, and where its bytes are."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass
class Tensors:
    """A safetensors file of which every count has been checked against its length.

    Attributes:
        path: The file.
        entries: The tensors by name.
        metadata: The strings that came along.
    """

    path: str
    entries: dict[str, StoredTensor]
    metadata: dict[str, str] = field(default_factory=dict)

    def bytes_of(self, name: str) -> bytes:
        """Return the bytes of one tensor. Raises UserError if they cannot be read."""
        entry = self.entries[name]
        try:
            with open(self.path, "rb") as file:
                file.seek(entry.start)
                data = file.read(entry.end - entry.start)
        except OSError as error:
            raise cannot_read(self.path, error) from None
        if len(data) != entry.end - entry.start:
            raise UserError(f"{self.path} is shorter than it was when it was opened")
        return data

    def array(self, name: str) -> mx.array | None:
        """One tensor, evaluated; float64 becomes float32. None for a dtype that MLX does not have.

        Raises:
            UserError: If it cannot be read.
        """
        entry = self.entries[name]
        if entry.dtype == "F64":
            doubles = numbers.array("d")
            doubles.frombytes(self.bytes_of(name))
            wide: Any = memoryview(doubles)
            return mx.array(wide).reshape(entry.shape)
        if entry.dtype not in DTYPES:
            return None
        data: Any = memoryview(self.bytes_of(name))
        return mx.array(data).view(DTYPES[entry.dtype]).reshape(entry.shape)


def cannot_read(path: str, error: OSError) -> UserError:
    """Return what to say where a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"there is no file {path}")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path} is a directory; name a file in it")
    return UserError(f"cannot read {path}: {error.strerror or error}")


def check_regular(path: str) -> int:
    """Return the length of a regular file in bytes. Raises UserError if it is missing or something else."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise cannot_read(path, error) from None
    except ValueError as error:  # a null character
        raise UserError(f"{path!r} is no name of a file: {error}") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path} is a directory; name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a regular file")
    return found.st_size


def read_header(path: str) -> Tensors:
    """Read what a safetensors file says of itself, and check it; the tensors themselves are not read.

    The format: eight bytes with the length of the header, the header as JSON, the bytes of the tensors
    (https://github.com/huggingface/safetensors#format).

    Raises:
        UserError: If it cannot be read, or is damaged, or is no such file.
    """
    length = check_regular(path)
    try:
        with open(path, "rb") as file:
            count = int.from_bytes(file.read(8), "little")
            if length < 8 or count > _HEADER_LIMIT:
                raise UserError(f"{path} is not a safetensors file")
            if 8 + count > length:
                raise UserError(f"{path} is not a safetensors file, or it is cut off: its header ends after its end")
            text = file.read(count)
    except OSError as error:
        raise cannot_read(path, error) from None
    header = _parse(path, text)
    metadata = header.pop("__metadata__", None) or {}  # MLX writes null where there are none
    if not isinstance(metadata, dict) or not all(isinstance(item, str) for item in metadata.values()):
        raise UserError(f"{path} is damaged: its metadata are not strings")
    entries = {name: _entry(path, name, said, 8 + count, length) for name, said in header.items()}
    return Tensors(path, entries, metadata)


def _parse(path: str, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not a safetensors file, or it is damaged: its header is not valid") from None
    if not isinstance(header, dict):
        raise UserError(f"{path} is not a safetensors file: its header is no table")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table in which every name stands once: MLX and Python may differ in which of two they take."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _entry(path: str, name: str, said: Any, offset: int, length: int) -> StoredTensor:
    """One tensor of the header, checked."""
    shown = repr(name)[:60]
    if not isinstance(said, dict):
        raise UserError(f"{path} is damaged: tensor {shown} is not described")
    dtype: Any = said.get("dtype")
    shape: Any = said.get("shape")
    place: Any = said.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise UserError(f"{path}: tensor {shown} has a dtype that nnrepl does not know")
    if not (is_counts(shape, _EXTENT_LIMIT) and is_counts(place, length + 1) and len(place) == 2 and len(shape) <= 64):
        raise UserError(f"{path} is damaged: tensor {shown} has an impossible shape or place")
    size = SIZES[dtype] * product(shape)
    start, end = place
    if end - start != size or offset + end > length:
        raise UserError(f"{path} is damaged or cut off: tensor {shown} needs {size} bytes, which are not there")
    return StoredTensor(dtype, tuple(shape), offset + start, offset + end)


def is_counts(said: Any, limit: int) -> bool:
    """Whether something is a list of whole numbers from 0 to below a limit."""
    return isinstance(said, list) and all(type(item) is int and 0 <= item < limit for item in said)


def product(shape: Iterable[int]) -> int:
    """Return the number of elements of a shape. Raises UserError where no tensor can be so large."""
    total, empty = 1, False
    for extent in shape:
        total *= extent or 1
        empty = empty or not extent
        if total > _SIZE_LIMIT:
            raise UserError("a tensor cannot be as large as this file says")
    return 0 if empty else total


def read_npz(path: str) -> dict[str, Callable[[], mx.array | None]]:
    """Return the arrays of a NumPy archive, read when they are asked for; it needs NumPy, and unpickles nothing.

    Raises:
        UserError: If it cannot be read.
    """
    check_regular(path)
    try:
        np = late("numpy")
    except ImportError:
        raise UserError(f"reading {path} needs NumPy: pip install numpy, or write it as safetensors") from None
    try:
        archive = np.load(path, allow_pickle=False)
    except OSError as error:
        raise cannot_read(path, error) from None
    except Exception as error:  # a damaged archive raises whatever zipfile and NumPy's parser raise
        raise UserError(f"{path} is not a NumPy archive, or it is damaged: {_first_line(error)}") from None
    if not hasattr(archive, "files"):
        raise UserError(f"{path} holds one array without a name; write it with numpy.savez(FILE, name=array)")
    return {name: _member(archive, path, name) for name in archive.files}


def _member(archive: Any, path: str, name: str) -> Callable[[], mx.array | None]:
    def read() -> mx.array | None:
        try:
            found = archive[name]
            if found.dtype.kind not in "biufc":
                return None
            return mx.array(found)
        except Exception as error:  # as above
            raise UserError(f"{path}: {name!r} cannot be read: {_first_line(error)}") from None

    return read


def _first_line(error: BaseException) -> str:
    said = str(error).splitlines()
    return (said[0] if said else type(error).__name__)[:200]
