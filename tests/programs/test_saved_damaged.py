"""Files that hold no tape, or a damaged one: one line each, and nothing in them is run."""

from __future__ import annotations

import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nnrepl
from nnrepl.programs.arrays import read_header
from nnrepl.programs.saved import open_session
from nnrepl.programs.savefile import unpacked
from nnrepl.programs.saving import save
from nnrepl.session.errors import UserError
from nnrepl.tape import Leaf
from tests.programs.test_saved import Net, every_value, reload, screen, train
from tests.support import OpenSession
from tests.thorough import share


def one_line(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_session(str(path))
    said = str(caught.value)
    assert "\n" not in said
    assert "\x1b" not in said
    return said


def test_files_that_hold_no_tape(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    assert "there is no file" in one_line(file)
    assert "is a directory" in one_line(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "not a regular file" in one_line(tmp_path / "pipe.safetensors")
    for content in (b"", b"abc", b"\0" * 100, b"print('hello')\n" * 10, b"\x05\0\0\0\0\0\0\0[1,2]", b"\xff" * 64):
        file.write_bytes(content)
        assert "not a safetensors file" in one_line(file)
    mx.save_safetensors(str(file), {"weight": mx.ones((2, 2))})
    assert "not a tape that nnrepl saved; compare" in one_line(file)
    mx.save_safetensors(str(file), {}, {"nnrepl": "2", "tape": "{}"})
    assert "another version" in one_line(file)


def rewritten(path: Path, change: Any) -> None:
    """The file with its JSON changed by a liar who knows of the checksum."""
    header = read_header(str(path))
    document = json.loads(unpacked(header.metadata))
    document = change(document) or document
    text = json.dumps(document)
    checksum = str(zlib.crc32(text.encode()))
    arrays = dict(mx.load(str(path)))
    mx.eval(arrays)
    mx.save_safetensors(str(path), arrays, {"nnrepl": "1", "tape": text, "checksum": checksum})


def lazy(document: Any) -> dict[str, Any]:
    """The first value, without its numbers."""
    return {key: said for key, said in document["values"][0].items() if key not in ("tensor", "sum")}


def gradient(document: Any) -> dict[str, Any]:
    """The last gradient, without its numbers."""
    last = next(row for row in reversed(document["values"]) if "of" in row)
    return {key: said for key, said in last.items() if key not in ("tensor", "sum")}


LIES: dict[str, Any] = {
    "no tapes": lambda d: d.update(tapes=[]),
    "a list": lambda d: [1, 2],
    "wrong types": lambda d: d.update(ops="abc"),
    "an op out of range": lambda d: d["tapes"][0]["ops"].append(10**9),
    "a negative op": lambda d: d["tapes"][0]["ops"].append(-1),
    "a value out of range": lambda d: d["ops"][0]["inputs"].append(10**6),
    "a true number": lambda d: d["ops"][0]["inputs"].append(True),
    "an argument that is no input": lambda d: d["ops"][0]["args"].append({"v": len(d["values"]) - 1}),
    "an input in a list that is none": lambda d: d["ops"][0]["args"].append({"l": [{"v": len(d["values"]) - 1}]}),
    "a cyclic scope": lambda d: d["scopes"][0].update(place=[0, 0]),
    "a cyclic origin": lambda d: d["values"][0].update(origin=0, kind="input"),
    "a cyclic gradient": lambda d: d["values"][-1].update(of=len(d["values"]) - 1),
    "a cyclic alias": lambda d: d["tapes"][0].update(aliases=[[0, 1], [1, 0]]),
    "an op that takes its own result": lambda d: d["ops"][0].update(inputs=d["ops"][0]["outputs"]),
    "a name that drives the terminal": lambda d: d["operations"][0].__setitem__(0, "\x1b]0;owned\x07"),
    "a path that drives the terminal": lambda d: d["files"][0].update(path="a\x1b[2Jb"),
    "gigantic source": lambda d: d["files"][0].update(count=10**12),
    "a gigantic shape": lambda d: d["values"][0].update(shape=[2**31 - 1] * 5),
    "a gigantic shape without numbers": lambda d: d["values"].__setitem__(0, {**lazy(d), "shape": [2**30] * 5}),
    "another shape": lambda d: d["values"][0].update(shape=[7]),
    "another dtype": lambda d: d["values"][0].update(dtype="int8"),
    "a dtype that is no dtype": lambda d: d["values"][0].update(dtype="eval"),
    "a pass out of range": lambda d: d["tapes"][0]["passes"][0].update(range=[0, 10**6, 0]),
    "no passes": lambda d: d["tapes"][0].update(passes=[]),
    "a pass of no kind": lambda d: d["tapes"][0]["passes"][0].update(kind="x"),
    "a cursor behind the end": lambda d: d["made"].update(cursor=10**6),
    "a cursor one behind the end": lambda d: d["made"].update(cursor=len(d["tapes"][d["current"]]["ops"]) + 1),
    "gradients of gradients without end": lambda d: d["values"].extend(
        [{**gradient(d), "kind": "seed", "of": len(d["values"]) + at - 1} for at in range(41)]
    ),
    "deep arguments": lambda d: d["ops"][0].update(args=[nested(150)]),
    "an argument of no kind": lambda d: d["ops"][0].update(args=[{"q": 1}]),
    "a class with a name of code": lambda d: d["ops"][0].update(args=[{"x": ["__import__('os')", "x"]}]),
    "a timeline that is its own parent": lambda d: d.update(tapes=d["tapes"] * 2, timelines=[{}, {"parent": 1}]),
    "holes in nothing": lambda d: d["tapes"][0].update(holes=[[0, 10**9, "x"]]),
}  # fmt: skip


def nested(depth: int) -> Any:
    made: Any = 1
    for _ in range(depth):
        made = {"l": [made]}
    return made


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies(lie: str, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    trace = nnrepl.trace(lambda x: mx.sin(x).sum(), mx.array([1.0, 2.0]), wrt=0)
    save(OpenSession(trace), str(file), True)
    rewritten(file, LIES[lie])
    assert "damaged" in one_line(file) or "as large as" in one_line(file)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("good") / "run.safetensors"
    mx.random.seed(1)
    save(train(1), str(file), True)
    return file.read_bytes()


UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=share(60, 25), deadline=None, suppress_health_check=UNCHECKED)
@given(data=st.data())
def test_a_damaged_file_gets_one_line(good: bytes, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "zero"]))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del content[max(at, 1) :]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            content[at : at + 8] = bytes(min(8, len(content) - at))
    file = tmp_path / "run.safetensors"
    file.write_bytes(bytes(content))
    if content == good:
        return
    try:
        session, _ = open_session(str(file))
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:  # a flip in what nobody reads, such as the name of a tensor that no value has
        screen(session, ["goto start", "ll", "goto end", "p loss"])


@settings(max_examples=share(40, 15), deadline=None, suppress_health_check=UNCHECKED)
@given(data=st.data())
def test_a_file_with_anything_in_its_tables(good: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Some part of the JSON is replaced by something else, with a right checksum."""
    file = tmp_path / "run.safetensors"
    file.write_bytes(good)
    other = st.one_of(st.none(), st.booleans(), st.integers(-3, 40), st.floats(), st.text(max_size=3), st.just([]),
                      st.just({}), st.just([0, 0]), st.just({"v": 0}))  # fmt: skip

    def change(document: Any) -> None:
        part: Any = document
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            key = data.draw(st.sampled_from(keys))
            inner = part[key]
            if not (isinstance(inner, (dict, list)) and inner) or data.draw(st.integers(0, 7)) == 0:
                part[key] = data.draw(other)
                return
            part = inner

    rewritten(file, change)
    try:
        session, _ = open_session(str(file))
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        screen(
            session, ["goto start", "s 5", "list source", "where", "ll", "what loss", "goto end", "p loss", "timelines"]
        )


def test_nothing_is_run(tmp_path: Path) -> None:
    """No module of a loaded tape is a class of the program's."""
    loaded = reload(train(1), tmp_path / "run.safetensors")
    owner = next(op.scope.owner for op in loaded.tape.ops if op.scope is not None and op.module)
    assert type(owner) is not Net
    assert not any(isinstance(value, Leaf) and value.op is not None for value in every_value(loaded))
    assert stat.S_ISREG((tmp_path / "run.safetensors").stat().st_mode)


def test_one_flipped_bit_of_a_number_is_noticed(good: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(good)
    entries = list(read_header(str(file)).entries.values())
    assert len(entries) > 9
    for entry in (*entries[::3], entries[-1]):
        content = bytearray(good)
        content[entry.end - 1] ^= 1
        file.write_bytes(bytes(content))
        assert "damaged" in one_line(file)
