"""Files are written wholly or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nnrepl.learn.progress import Reached, keep_progress
from nnrepl.session.errors import UserError
from nnrepl.session.files import private_directory, replacing, write_private, write_text
from nnrepl.session.saved_stops import Keeper, stops_file
from nnrepl.session.settings import (
    SETTINGS,
    config_directory,
    config_file,
    defaults,
    read_setting,
    save_settings,
    state_directory,
)
from nnrepl.session.stops import Stops, Watch
from nnrepl.shell.typed_before import history_of
from tests.support import ROOT


def test_a_setting_that_is_one_of_some_words_takes_these_and_no_other() -> None:
    """The first is how it is if nobody says anything."""
    chosen = {name: setting for name, setting in SETTINGS.items() if setting.words}
    assert len(chosen) == 9
    for name, setting in chosen.items():
        assert (setting.default, " " in setting.help) == (setting.words[0], True)
        assert [read_setting(name, word) for word in setting.words] == list(setting.words)
        assert not any(" " in word for word in setting.words)
        with pytest.raises(UserError, match=f"^{name} is {' or '.join(setting.words)}, not pink$"):
            read_setting(name, "pink")


def test_written(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    file.chmod(0o600)
    write_text(file, "new é")
    assert file.read_text(encoding="utf-8") == "new é"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_interrupted(error: type[BaseException], tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(error), replacing(file) as part:  # noqa: PT012
        part.write_text("ne")
        raise error
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_through_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("old")
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end(number: int, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    # Under `nohup` the tests are told to ignore one of them, and so is what they start.
    code = f"""
import os, signal
from nnrepl.session.files import replacing
signal.signal({int(number)}, signal.SIG_DFL)
with replacing({str(file)!r}) as part:
    part.write_text("ne")
    os.kill(os.getpid(), {int(number)})
    for _ in range(10_000): pass
    part.write_text("new")
"""
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert ended.returncode == -number
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_was_typed_is_for_the_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "state" / "nnrepl" / "stops" / "a.json"
    write_private(file, "old")
    assert file.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in (file.parent, file.parent.parent)} == {0o700}
    file.chmod(0o644)
    write_private(file, "new")
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == ["a.json"]


def test_what_an_older_version_left_open_is_closed_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own directories and files, not those above, nor what a link leads to."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nnrepl"))
    own = tmp_path / "nnrepl" / "nnrepl"
    (own / "histories").mkdir(parents=True)
    history_of("train.py")
    (typed,) = (own / "histories").iterdir()
    linked = tmp_path / "linked"
    linked.mkdir()
    (own / "stops").symlink_to(linked)
    opened = (tmp_path, tmp_path / "nnrepl", linked, own, own / "histories", typed)
    for path in opened:
        path.chmod(0o755)
    history_of("train.py")
    write_private(own / "stops" / "a.json", "")
    assert [path.stat().st_mode & 0o777 for path in opened] == [0o755] * 3 + [0o700] * 3


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_directory(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("variable", "directory"), [("XDG_CONFIG_HOME", config_directory), ("XDG_STATE_HOME", state_directory)]
)
def test_a_relative_path_is_ignored(
    variable: str, directory: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "here")
    relative = directory()
    monkeypatch.delenv(variable)
    assert relative == directory()
    assert relative.is_absolute()


@pytest.mark.parametrize(
    ("platform", "set_there", "config", "state"),
    [
        ("linux", {}, "~/.config", "~/.local/state"),
        ("linux", {"APPDATA": "/roaming", "LOCALAPPDATA": "/local"}, "~/.config", "~/.local/state"),
        ("darwin", {}, "~/Library/Application Support", "~/Library/Application Support"),
        ("win32", {"APPDATA": "/roaming", "LOCALAPPDATA": "/local"}, "/roaming", "/local"),
        *(
            (platform, {"XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "APPDATA": "/roaming"}, "/c", "/s")
            for platform in ("linux", "darwin", "win32")
        ),
    ],
)
def test_where_files_are_kept(
    platform: str, set_there: dict[str, str], config: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the platform keeps such files, and where XDG's variables say, if they are set."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, path in set_there.items():
        monkeypatch.setenv(name, path)
    monkeypatch.setattr(sys, "platform", platform)
    assert [str(config_directory()), str(state_directory())] == [
        f"{os.path.expanduser(path)}/nnrepl" for path in (config, state)
    ]


def test_whatever_is_kept_is_for_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that nnrepl keeps for later, under the most generous umask."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    before = os.umask(0)
    try:
        keep_progress("a lesson", Reached(part=2))
        save_settings(config_file(), defaults() | {"theme": "light"})
        stops = Stops()
        keeper = Keeper(stops, stops_file("train.py"))
        stops.add(Watch("w"))
        assert keeper.save() == ""
        history, _ = history_of("train.py")
        history.append_string("p z1")
    finally:
        os.umask(before)
    kept = {str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
    assert sum(mode == "0o600" for mode in kept.values()) == 4
    assert set(kept.values()) == {"0o600", "0o700"}
