"""Settings: what `config` shows and changes, and the file that keeps them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.late import late
from nnrepl.session.errors import UserError
from nnrepl.session.files import write_private
from nnrepl.tape import SKIPPED
from nnrepl.timeline.history import default_budget, parse_size


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that a user may want differently.

    Attributes:
        default: What it is if nobody says anything.
        read: From the text after its name to its value. Raises ValueError with what is expected.
        help: What it does, in one line.
        words: The words that it takes, for completion; empty for numbers.
    """

    default: Any
    read: Callable[[str], Any]
    help: str
    words: tuple[str, ...] = ()


def _count(text: str) -> int:
    if not text.isdigit() or len(text) > 12:
        raise ValueError("a number of elements, such as 4096")
    return int(text)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise ValueError("a size such as 500M or 2G") from None


def _patterns(text: str) -> str:
    words = re.split(r"[\s,]+", text.strip())
    if not all(re.fullmatch(r"[\w.*?]+", word) for word in words):
        raise ValueError("names of modules with *, such as mlx.* jax.*")
    return "none" if words == ["none"] else " ".join(words)


def _word(help: str, *words: str) -> Setting:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return Setting(words[0], read, help, words)


SETTINGS: dict[str, Setting] = {
    "peek": Setting(4096, _count, "results of up to so many elements are shown as you step; 0 for never"),
    "history": Setting(default_budget(), _size, "memory for the values of old passes, in bytes; 500M, 2G"),
    "theme": _word("colours for a dark or a light terminal", "dark", "light"),
    "keys": _word("how the line is edited (F4 changes it)", "emacs", "vi"),
    "complete": _word("when completions are shown: on Tab, or while you type", "tab", "typing"),
    "pager": _word("whether long output stops at each screen", "on", "off"),
    "stop": _word(
        "what a stop shows: source and numbers; values in the line itself; no numbers; no source",
        "full",
        "values",
        "formula",
        "short",
    ),
    "dull": _word("whether step stops at ops that only arrange numbers (reshape, astype)", "stop", "pass"),
    "tensors": _word("how the full screen shows tensors (F3 changes it)", "numbers", "heatmap"),
    "skip": Setting(" ".join(SKIPPED), _patterns, "modules whose lines are not yours, such as mlx.*; none for nothing"),
    "native": _word("whether steps that nobody looks into run as in plain Python, and are opened later", "on", "off"),
    "mouse": _word("whether the mouse works in the full screen", "on", "off"),
}


def defaults() -> dict[str, Any]:
    """Every setting as it is if nobody says anything."""
    found = {name: setting.default for name, setting in SETTINGS.items()}
    wanted = os.environ.get("NNREPL_NATIVE", "")
    found["native"] = wanted if wanted in ("on", "off") else found["native"]
    return found


def read_setting(name: str, text: str) -> Any:
    """Return the value that a text stands for. Raises UserError with what is expected."""
    if name not in SETTINGS:
        raise UserError(f"there is no setting {name}; config lists them")
    try:
        return SETTINGS[name].read(text)
    except ValueError as error:
        raise UserError(f"{name} is {error}, not {text}") from None


# -- the file --------------------------------------------------------------------------------------------


def config_directory() -> Path:
    """Where a user's own files for nnrepl lie: `config`, and `startup` with commands to begin with."""
    return _directory("XDG_CONFIG_HOME", "APPDATA", ".config")


def state_directory() -> Path:
    """Where nnrepl keeps what it remembers."""
    return _directory("XDG_STATE_HOME", "LOCALAPPDATA", ".local/state")


def file_name(program: str) -> str:
    """Return what a file about a program is called: its name for people, and a hash of its path."""
    name = re.sub(r"[^\w.-]+", "_", os.path.basename(program))[:60] or "nnrepl"
    digest = late("hashlib").sha256(os.path.abspath(program).encode())
    return f"{name}-{digest.hexdigest()[:8]}"


def _directory(variable: str, windows: str, usual: str) -> Path:
    given = os.environ.get(variable) or (os.environ.get(windows) if sys.platform == "win32" else "")
    if not os.path.isabs(given or ""):
        given = ""  # XDG: a relative path is invalid and to be ignored; it would be another one in each directory
    if not given and sys.platform == "darwin":
        given = os.path.join(os.path.expanduser("~"), "Library", "Application Support")
    return Path(given or os.path.join(os.path.expanduser("~"), usual)) / "nnrepl"


def config_file() -> Path:
    """Return the file of settings: lines such as `theme light`."""
    return config_directory() / "config"


def load_settings(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what a file says that is different from the defaults, and one line for each thing wrong with it."""
    found: dict[str, Any] = {}
    notes: list[str] = []
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return found, notes
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        return found, [f"cannot read {path}: {reason}; the settings are the usual ones"]
    for number, line in enumerate(text.splitlines(), 1):
        name, _, value = line.partition("#")[0].strip().partition(" ")
        if not name:
            continue
        try:
            found[name] = read_setting(name, value.strip())
        except UserError as error:
            notes.append(f"{path}:{number}: {error}")
    return found, notes


def adopt_settings(settings: dict[str, Any]) -> str:
    """Put what a user's file says into some settings; returns what is wrong with it, each on a line of its own."""
    found, notes = load_settings(config_file())
    settings.update(found)
    return "".join(f"\n{note}" for note in notes)


def save_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write what is different from the defaults. Raises UserError if that is not possible."""
    lines = [f"{name} {settings[name]}" for name in SETTINGS if settings[name] != SETTINGS[name].default]
    try:
        write_private(path, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
