"""The recordings of a folder: `manifest.json`, a list of objects.

`file` (below the folder), `set`, `language` (ISO 639-1; `none` where nobody speaks) and `reference` (empty where nobody
speaks) are needed. `references`, one text each, stand for people who speak at once. `seconds` is measured where it is
missing. Everything else is ignored.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

NO_SPEECH = "none"


class BadManifest(Exception):
    """What is wrong with a folder of recordings, as one sentence."""


@dataclass(frozen=True)
class Recording:
    """One recording and what is said in it."""

    file: str
    path: Path
    set: str
    language: str
    references: list[str]
    seconds: float

    @property
    def speech(self) -> bool:
        """Whether anybody speaks."""
        return self.language != NO_SPEECH


def read(folder: Path, sets: list[str] | None = None, limit: int | None = None) -> list[Recording]:
    """The recordings of `folder`, of some sets only, and at most `limit` of each set."""
    path = folder / "manifest.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadManifest(f"there is no {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadManifest(f"{path} could not be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise BadManifest(f"{path} is not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise BadManifest(f"{path} is not a list of recordings")
    known = [_checked(entry, number, folder, path) for number, entry in enumerate(entries, 1)]
    if sets:
        there = {entry["set"] for entry in known}
        if absent := [name for name in sets if name not in there]:
            raise BadManifest(f"{path} has no set {absent[0]!r}; it has {', '.join(sorted(there))}")
        known = [entry for entry in known if entry["set"] in sets]
    taken, chosen = Counter(), []
    for entry in known:
        taken[entry["set"]] += 1
        if limit is None or taken[entry["set"]] <= limit:
            chosen.append(entry)
    if lost := [entry["file"] for entry in chosen if not entry["path"].is_file()]:
        more = f", nor are {len(lost) - 1} others" if len(lost) > 1 else ""
        raise BadManifest(f"{lost[0]}, which {path} names, is not there{more}")
    return [
        Recording(**{**entry, "seconds": entry["seconds"] if entry["seconds"] else length(entry["path"])})
        for entry in chosen
    ]


def _checked(entry, number: int, folder: Path, path: Path) -> dict:
    where = f"recording {number} of {path}"
    if not isinstance(entry, dict):
        raise BadManifest(f"{where} is not an object")
    texts = {}
    for name in ("file", "set", "language", "reference"):
        texts[name] = entry.get(name)
        if not isinstance(texts[name], str) or not (texts[name] or name == "reference"):
            raise BadManifest(f"{where} has no text `{name}`")
    inside = PurePosixPath(texts["file"])
    if inside.is_absolute() or ".." in inside.parts:
        raise BadManifest(f"{where} lies outside of the folder: {texts['file']}")
    several = entry.get("references") or [texts["reference"]]
    if not isinstance(several, list) or not all(isinstance(text, str) for text in several):
        raise BadManifest(f"{where} has `references` that are no list of texts")
    if texts["language"] == NO_SPEECH and any(several):
        raise BadManifest(f"{where} has a reference and the language `{NO_SPEECH}`")
    seconds = entry.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e6:
        seconds = None
    return {
        "file": texts["file"], "path": folder / inside, "set": texts["set"], "language": texts["language"],
        "references": several, "seconds": seconds,
    }  # fmt: skip


def length(path: Path) -> float:
    """How long a recording lasts, in seconds."""
    return len(samples(path)) / (2 * RATE)


# What live streams are sent, per second.
RATE = 16_000


def samples(path: Path) -> bytes:
    """A recording as 16-bit samples of one channel, `RATE` a second."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-ac", "1", "-ar", str(RATE), "-f", "s16le", "-"]
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=600).stdout
    except FileNotFoundError:
        raise BadManifest("ffmpeg, which decodes the recordings for live streams, is not installed") from None
    except subprocess.SubprocessError:
        raise BadManifest(f"{path} could not be decoded by ffmpeg") from None
