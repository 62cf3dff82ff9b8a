"""Savefile: the form of a saved tape. One safetensors file: arrays as tensors, everything else as JSON in its
metadata. Every text in it is free of control codes, so that it cannot do things to a reader's terminal.
"""

from __future__ import annotations

import base64
import os
import re
import zlib

import mlx.core as mx

from nnrepl.session.errors import UserError
from nnrepl.session.files import replacing

FORMAT = 1
_LONG, _LONGEST = 2**24, 2**31
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str, several_lines: bool = False) -> str:
    """Return a text without control codes, which could do things to a reader's terminal."""
    clean = _HARMFUL.sub("\ufffd", text)
    return clean if several_lines else clean.replace("\n", "\ufffd").replace("\t", " ")


def is_harmless(text: str, several_lines: bool = False) -> bool:
    """Whether a text is as `harmless` leaves it."""
    return _HARMFUL.search(text) is None and (several_lines or ("\n" not in text and "\t" not in text))


def write(path: str, arrays: dict[str, mx.array], text: str) -> int:
    """Write a file beside the final one, and put it in its place when it is complete. Returns its length."""
    metadata = {"nnrepl": str(FORMAT), **packed(text)}
    try:
        with replacing(path) as part, open(part, "wb") as file:
            mx.save_safetensors(file, arrays, metadata)
            file.flush()
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing has changed there") from None
    return size


def packed(text: str) -> dict[str, str]:
    """Return the JSON as the metadata hold it: as it is, or compressed where it would not fit into a header."""
    data = text.encode()
    checksum = str(zlib.crc32(data))
    if len(data) <= _LONG:
        return {"tape": text, "checksum": checksum}
    return {"tape.zlib": base64.b64encode(zlib.compress(data, 6)).decode(), "checksum": checksum}


def unpacked(metadata: dict[str, str]) -> str:
    """Return the JSON in the metadata of a file. Raises ValueError if it is damaged, KeyError if there is none."""
    if "tape.zlib" in metadata:
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(base64.b64decode(metadata["tape.zlib"], validate=True), _LONGEST)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if not stream.eof:
            raise ValueError("it is longer than any tape")
    else:
        data = metadata["tape"].encode()
    if metadata["checksum"] != str(zlib.crc32(data)):
        raise ValueError("its checksum is another")
    return data.decode()


def check_target(path: str) -> None:
    try:
        if os.path.isdir(path):
            raise UserError(f"{path} is a directory; name a file in it, such as {os.path.join(path, 'run')}")
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{path} is not a regular file")
        directory = os.path.dirname(os.path.realpath(path))
    except ValueError as error:
        raise UserError(f"{path!r} is no name of a file: {error}") from None
    if not os.path.isdir(directory):
        raise UserError(f"cannot write {path}: there is no directory {directory}")
