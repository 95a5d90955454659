"""The speech benchmark; `run` says how it is called.

CPU seconds are those of the server's process (from /proc, so on Linux only), from before a recording is sent until its
answer is complete. The time to final is measured on the clock of the stream: from the moment when the last word of a
final had been sent, as it would have been spoken then, until the final arrived. It includes the pause that ends an
utterance.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path

import manifest
import score

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "clients" / "python"))

READY_WITHIN = 300  # seconds; a large model on a slow disk
STOPS_WITHIN = 30
CHUNK = 0.1  # seconds of audio per message of a live stream
# An upload or the end of a stream may take this long, and this many times the recording: slow is no failure.
PATIENCE = 600
PATIENCE_PER_SECOND = 60

# Ours unless the flags after `--` name them.
FLAGS = {"--workers": "1", "--threads": "1", "--cache-mb": "0", "--max-audio-minutes": "240"}


class Failed(Exception):
    """Why the benchmark cannot go on, as one sentence."""


def main() -> int:
    options = read_arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return measure(options)
    except (Failed, manifest.BadManifest) as failure:
        say(failure)
        return 1
    except KeyboardInterrupt:
        return 130


def read_arguments(arguments):
    ours, flags = arguments, []
    if "--" in arguments:
        ours, flags = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="./dev bench speech", description="Measures a server on recordings of speech.", allow_abbrev=False,
        epilog="What follows `--` goes to `whisperwire serve`, for instance: -- --file-window 10",
    )  # fmt: skip
    parser.add_argument("--speech", type=Path, required=True, metavar="DIR", help="recordings and manifest.json")
    parser.add_argument("--model", help="a name or a file; default: the best one that is on this machine")
    parser.add_argument("--sets", type=lambda text: text.split(","), metavar="A,B", help="these sets only")
    parser.add_argument("--limit", type=positive(int), metavar="N", help="at most N recordings of each set")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--file-only", action="store_true", help="uploads only")
    which.add_argument("--live-only", "--live", action="store_true", help="live streams only")
    parser.add_argument(
        "--speed", type=positive(float), default=1.0, metavar="X",
        help="live streams: times the speed of speech (default: 1)",
    )  # fmt: skip
    parser.add_argument("--no-language", action="store_true", help="let the server find the language")
    parser.add_argument("--form", action="append", default=[], metavar="NAME=VALUE", help="a field for each upload")
    parser.add_argument("--against", choices=["faster-whisper"], help="run this afterwards, and compare")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="the same model as a CTranslate2 folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--show-errors", action="store_true", help="print what was said and what was heard")
    parser.add_argument(
        "--server", type=Path, default=ROOT / "target" / "release" / "whisperwire", help="the binary to measure"
    )
    parser.add_argument("--no-server", action="store_true", help="with --against: only that")
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "speech", help=argparse.SUPPRESS)
    parser.add_argument("--yardstick", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(ours)
    if any("=" not in field for field in options.form):
        parser.error("--form wants NAME=VALUE")
    if options.no_server and not options.against:
        parser.error("--no-server leaves nothing to do without --against")
    options.flags = flags
    return options


def positive(kind):
    def read(text):
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return value

    read.__name__ = kind.__name__
    return read


def measure(options) -> int:
    recordings = manifest.read(options.speech, options.sets, options.limit)
    # Everything that can be found wrong is found before an hour of measuring.
    weights = yardstick_weights(options) if options.against else None
    if options.out and not options.out.resolve().parent.is_dir():
        raise Failed(f"there is no folder for {options.out}")
    try:
        units = score.Normaliser().units
    except ImportError as error:
        raise Failed(f"a package is missing ({error}): run `./dev bench speech`") from None
    rows = [
        {
            "file": one.file, "set": one.set, "language": one.language, "seconds": one.seconds,
            "references": one.references, "unit": "characters" if one.language in score.BY_CHARACTER else "words",
        }
        for one in recordings
    ]  # fmt: skip
    report = {
        "command": sys.argv[1:], "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_at_start": round(os.getloadavg()[0], 2), "model": options.model, "flags": options.flags,
        "speed": options.speed, "recordings": rows,
    }  # fmt: skip
    try:
        run_all(options, report, weights, recordings, units)
    finally:
        # What was measured until something failed, or until Ctrl-C, is not lost.
        report["summary"] = summary(rows)
        if options.out:
            options.out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if options.show_errors:
        show_errors(rows)
    print(table(report["summary"], options.against))
    failures = [row["file"] for row in rows for kind in KINDS if row.get(kind, {}).get("error")]
    if failures:
        say(f"{len(failures)} of them failed, {failures[0]} first; their words count as lost")
    return 1 if failures else 0


def run_all(options, report, weights, recordings, units):
    """Fills `report` in, one way of transcribing after the other."""
    rows = report["recordings"]
    if not options.no_server:
        with running(options) as server:
            report["model"] = server.model()
            say(f"the server has loaded {report['model']}")
            if not options.live_only:
                for row, one in each("uploads", rows, recordings):
                    row["file_result"] = judged(server.upload(one, options), one, units)
            if not options.file_only:
                for row, one in each("live streams", rows, recordings):
                    row["live_result"] = judged(server.live(one, options), one, units)
    if options.against:
        answers = faster_whisper(options, weights, recordings)
        for row, one in each("faster-whisper", rows, recordings):
            row["other_result"] = judged(next(answers), one, units)
        next(answers, None)


# ---- the server ----------------------------------------------------------------------------------------------


class Server:
    """A running server and its process."""

    def __init__(self, url: str, pid: int):
        self._url, self._pid = url, pid

    def model(self) -> str | None:
        """The name of the model that was loaded."""
        with _opener.open(f"{self._url}/health", timeout=30) as answer:
            health = json.load(answer)
        return health.get("model")

    def cpu(self) -> float | None:
        """CPU seconds of the process so far; None where the system does not tell."""
        try:
            fields = Path(f"/proc/{self._pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def calm(self):
        """Waits until the process computes nothing of its own any more, as it does while a model is loaded."""
        until, last = time.monotonic() + 60, self.cpu()
        while last is not None and time.monotonic() < until:
            time.sleep(0.5)
            now = self.cpu()
            if now is None or now - last < 0.05:
                return
            last = now

    def upload(self, recording, options) -> dict:
        fields = [tuple(field.split("=", 1)) for field in options.form]
        if not any(name == "model" for name, _ in fields):
            fields.append(("model", "whisper-1"))
        if language(recording, options):
            fields.append(("language", recording.language))
        boundary = uuid.uuid4().hex
        request = urllib.request.Request(
            f"{self._url}/v1/audio/transcriptions", form(boundary, fields, recording.path),
            {"content-type": f"multipart/form-data; boundary={boundary}"},
        )  # fmt: skip
        cpu, wall = self.cpu(), time.monotonic()
        told = {"text": ""}
        try:
            with _opener.open(request, timeout=patience(recording)) as answer:
                told["text"] = json.load(answer)["text"]
        except urllib.error.HTTPError as error:
            told["error"] = f"{error.code}: {error.read(2000).decode(errors='replace')}"
        except (OSError, ValueError, KeyError) as error:
            told["error"] = f"{type(error).__name__}: {error}"
        return told | self._spent(cpu, wall)

    def live(self, recording, options) -> dict:
        import whisperwire

        pcm = manifest.samples(recording.path)
        settings = {"language": recording.language} if language(recording, options) else {}
        cpu, wall = self.cpu(), time.monotonic()
        heard = Heard(options.speed)
        told = {"text": ""}
        try:
            with whisperwire.stream(self._url, **settings) as stream:
                # Nothing would end the wait for a server that has stopped answering.
                guard = threading.Timer(patience(recording), stream.close)
                guard.daemon = True
                guard.start()
                step = 2 * round(CHUNK * manifest.RATE)
                heard.begin(time.monotonic())
                for chunk in range(0, len(pcm), step):
                    # A chunk can be sent once all of it has been spoken.
                    due = heard.spoken(min(chunk + step, len(pcm)) / (2 * manifest.RATE))
                    for event in stream.events(timeout=max(0.0, due - time.monotonic())):
                        heard.take(event, time.monotonic())
                    stream.send(pcm[chunk : chunk + step])
                stream.end()
                for event in stream.events():
                    heard.take(event, time.monotonic())
                guard.cancel()
            if not heard.done:
                told["error"] = "the stream ended before it was done"
        except (whisperwire.WhisperwireError, OSError) as error:
            told["error"] = f"{type(error).__name__}: {error}"
        told |= {"text": heard.text(), "to_final": heard.to_final, "to_first": heard.to_first}
        return told | self._spent(cpu, wall)

    def _spent(self, cpu, wall) -> dict:
        now = self.cpu()
        spent = None if cpu is None or now is None else round(now - cpu, 3)
        return {"cpu": spent, "wall": round(time.monotonic() - wall, 3)}


class Heard:
    """What a live stream says, and how late. Times of events are seconds of audio; `now` is a clock's."""

    def __init__(self, speed: float):
        self._speed = speed
        self._begun = 0.0
        self._finals: list[str] = []
        self._waiting: dict[int, float] = {}
        self.to_final: list[float] = []
        self.to_first: list[float] = []
        self.done = False

    def begin(self, now: float):
        """The first sample is spoken now."""
        self._begun = now

    def spoken(self, at: float) -> float:
        """When the sample at `at` seconds is spoken."""
        return self._begun + at / self._speed

    def take(self, event, now: float):
        kind = type(event).__name__
        if kind == "SpeechStarted":
            self._waiting[event.utterance] = event.at
        elif kind in ("Partial", "Final") and event.text:
            begun = self._waiting.pop(event.utterance, None)
            if begun is not None:
                self.to_first.append(round(now - self.spoken(begun), 3))
            if kind == "Final":
                self._finals.append(event.text)
                self.to_final.append(round(now - self.spoken(event.end), 3))
        elif kind == "Done":
            self.done = True

    def text(self) -> str:
        return " ".join(self._finals)


# Never through a proxy: the server is on the loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def language(recording, options) -> bool:
    """Whether the server is told the language."""
    return recording.speech and not options.no_language


def patience(recording) -> float:
    return PATIENCE + PATIENCE_PER_SECOND * recording.seconds


def form(boundary: str, fields, path: Path) -> bytes:
    """A multipart body with these fields and a file."""
    parts = []
    for name, value in fields:
        parts.append(f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    name = re.sub(r'[^\w.-]', "_", path.name)
    head = f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return b"".join(parts) + head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()


@contextmanager
def running(options):
    """A server until the end of the block."""
    if not os.access(options.server, os.X_OK):
        raise Failed(f"there is no server at {options.server}: run `./dev bench speech`, which builds it")
    options.work.mkdir(parents=True, exist_ok=True)
    command = [str(options.server), "serve", "--host", "127.0.0.1", "--port", "0", "--log", "warn", "--offline"]
    given = {flag.split("=", 1)[0] for flag in options.flags}
    for flag, value in FLAGS.items():
        command += [] if flag in given else [flag, value]
    command += ["--model", options.model] if options.model else []
    log_path = options.work / f"server-{os.getpid()}.log"
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            command + options.flags, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=log,
        )  # fmt: skip
        try:
            server = Server(address(process, log_path), process.pid)
            if server.cpu() is None:
                say("CPU seconds are read from /proc, which this system does not have: they are left out")
            server.calm()
            yield server
            if process.poll() is not None:
                raise Failed(f"the server ended with {process.returncode} while it was measured\n{tail(log_path)}")
        finally:
            process.terminate()
            try:
                process.wait(STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    log_path.unlink(missing_ok=True)


def address(process, log_path) -> str:
    """Reads standard output until the server names its address, and goes on emptying the pipe in the background."""
    lines = queue.Queue()

    def pump():
        for line in process.stdout:
            lines.put(line.decode(errors="replace"))
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Failed(f"the server did not listen within {READY_WITHIN} s\n{tail(log_path)}") from None
        if line is None:
            process.wait(STOPS_WITHIN)
            raise Failed(f"the server ended with {process.returncode} before it listened\n{tail(log_path)}")
        if found := re.search(r"listening on (http://\S+)", line):
            return found.group(1).rstrip("/")


def clean_environment() -> dict:
    """Ours without what would configure the server; where models are kept stays."""
    configuring = re.compile(r"(WHISPER\w*|HOST|PORT|API_KEY)", re.IGNORECASE)
    kept = ("WHISPERWIRE_MODELS_DIR",)
    return {name: value for name, value in os.environ.items() if name in kept or not configuring.fullmatch(name)}


def tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-10:])


# ---- faster-whisper ------------------------------------------------------------------------------------------


def yardstick_weights(options) -> Path:
    """The CTranslate2 folder to run, checked, so that nothing of it is found missing after an hour."""
    if options.yardstick is None:
        raise Failed("faster-whisper is installed by tests/speech/run: call that, or `./dev bench speech`")
    if options.weights is None:
        fetch, name = ROOT / "models" / "fetch", options.model or "unnamed"
        options.weights = options.work / "weights" / name
        if "/" in name or subprocess.run([fetch, name, "--folder", options.weights]).returncode:
            raise Failed("--against wants --model base or tiny.en, or the same weights as a folder: --weights FOLDER")
    for name in ("model.bin", "config.json"):
        if not (options.weights / name).is_file():
            raise Failed(f"{options.weights} is no CTranslate2 folder: it has no {name}")
    return options.weights


def faster_whisper(options, weights: Path, recordings):
    """Yields what faster-whisper makes of each recording. Ends its process at the end, whatever happens."""
    work = {
        "weights": str(weights.resolve()),
        "recordings": [
            {"path": str(one.path.resolve()), "language": one.language if language(one, options) else ""}
            for one in recordings
        ],
    }
    command = [str(options.yardstick), str(Path(__file__).with_name("yardstick.py"))]
    # One thread, and never a look at the hub.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    options.work.mkdir(parents=True, exist_ok=True)
    log_path = options.work / f"yardstick-{os.getpid()}.log"
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, encoding="utf-8"
        )
        try:
            process.stdin.write(json.dumps(work))
            process.stdin.close()
            process.stdout.readline()
            for _ in recordings:
                line = process.stdout.readline()
                if not line:
                    process.wait(STOPS_WITHIN)
                    raise Failed(f"faster-whisper ended with {process.returncode}\n{tail(log_path)}")
                yield json.loads(line)
            process.wait(STOPS_WITHIN)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    log_path.unlink(missing_ok=True)


# ---- results -------------------------------------------------------------------------------------------------

KINDS = {"file_result": "file", "live_result": "live", "other_result": "other"}


def judged(told: dict, recording, units) -> dict:
    """An answer with what is wrong about it."""
    counted = score.score(recording.references, told["text"], recording.language, units)
    return told | {
        "errors": counted.errors, "units": counted.units, "heard": counted.heard, "runaway": counted.runaway,
    }  # fmt: skip


def summary(rows) -> list[dict]:
    """What the table shows: a line for each set, and totals."""
    groups = {}
    for row in rows:
        groups.setdefault(row["set"], []).append(row)
    lines = [line(name, group) for name, group in groups.items()]
    spoken = [row for row in rows if row["language"] != manifest.NO_SPEECH]
    words = [row for row in spoken if row["unit"] == "words"]
    characters = [row for row in spoken if row["unit"] == "characters"]
    english = [row for row in words if row["language"] == "en"]
    if english and len(english) < len(words):
        lines.append(line("all English", english))
    if words:
        lines.append(line("all by word", words))
    if characters:
        lines.append(line("all by character", characters))
    if len(spoken) < len(rows):
        lines.append(line("all without speech", [row for row in rows if row not in spoken]))
    return [*lines, line("everything", rows)]


def line(name: str, rows) -> dict:
    """One line: `rate` is errors over units of the whole set, in per cent; None where nobody speaks."""
    told = {"name": name, "recordings": len(rows), "seconds": round(sum(row["seconds"] for row in rows), 1)}
    for kind, short in KINDS.items():
        with_result = [row for row in rows if kind in row]
        if not with_result:
            continue
        results = [row[kind] for row in with_result]
        spoken = [row[kind] for row in with_result if row["language"] != manifest.NO_SPEECH]
        silent = [row[kind] for row in with_result if row["language"] == manifest.NO_SPEECH]
        errors, units = sum(one["errors"] for one in spoken), sum(one["units"] for one in spoken)
        mixed = len({row["unit"] for row in with_result if row["language"] != manifest.NO_SPEECH}) > 1
        cpu = [one["cpu"] for one in results]
        told[short] = {
            "errors": errors, "units": units,
            # Words and characters do not add up.
            "rate": None if mixed or not units else round(100 * errors / units, 2),
            "false_text": sum(1 for one in silent if one["heard"]), "false_words": sum(one["heard"] for one in silent),
            "without_speech": len(silent),
            "runaways": sum(one["runaway"] for one in results), "failed": sum("error" in one for one in results),
            "cpu": None if None in cpu else round(sum(cpu) / sum(row["seconds"] for row in with_result), 4),
        }  # fmt: skip
        for late in ("to_final", "to_first"):
            if all(late in one for one in results):
                told[short][late] = spread([value for one in results for value in one[late]])
    return told


def spread(values: list[float]) -> dict | None:
    """The median, and what nine in ten stay within."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        "median": ordered[(len(ordered) - 1) // 2], "ninety": ordered[math.ceil(0.9 * len(ordered)) - 1],
        "count": len(ordered),
    }  # fmt: skip


def table(lines: list[dict], against: str | None = None) -> str:
    """The lines as text: a table for each way of transcribing, and one that compares them.

    Rates are per cent, costs are CPU seconds per second of audio, latencies are seconds: median and what nine in ten
    stay within.
    """
    names = {"file": "uploads", "live": "live streams", "other": against or "other"}
    kinds = [short for short in KINDS.values() if any(short in one for one in lines)]
    first = [[one["name"], str(one["recordings"]), f"{one['seconds']:.0f}"] for one in lines]
    parts = []
    for short in kinds:
        heads = [names[short], "clips", "seconds", "errors", "%", "false text", "runaway", "CPU/s"]
        heads += ["to first text", "to final"] if short == "live" else []
        parts.append(aligned(heads, [row + cells(one.get(short), short) for row, one in zip(first, lines)]))
    pairs = [pair for pair in (("live", "file"), ("file", "other"), ("live", "other")) if set(pair) <= set(kinds)]
    if pairs:
        heads = ["compared"]
        for one, other in pairs:
            heads += [f"{names[one]} - {names[other]}, points", "CPU ratio"]
        rows = []
        for at in lines:
            row = [at["name"]]
            for one, other in pairs:
                row += [difference(at.get(one), at.get(other)), ratio(at.get(one), at.get(other))]
            rows.append(row)
        parts.append(aligned(heads, rows))
    return "\n\n".join(parts)


def aligned(heads: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    text = []
    for first, *rest in [heads, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:])]
        text.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(text)


def cells(result: dict | None, short: str) -> list[str]:
    if result is None:
        return ["-"] * (7 if short == "live" else 5)
    row = [
        f"{result['errors']}/{result['units']}" if result["rate"] is not None else "-",
        number(result["rate"], 2),
        f"{result['false_text']}/{result['without_speech']} ({result['false_words']} words)"
        if result["without_speech"] else "-",
        str(result["runaways"]),
        number(result["cpu"], 3),
    ]  # fmt: skip
    for late in ("to_first", "to_final") if short == "live" else ():
        found = result.get(late)
        row.append(f"{found['median']:.2f} {found['ninety']:.2f}" if found else "-")
    return row


def number(value, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def difference(one: dict | None, other: dict | None) -> str:
    """In points of the error rate."""
    if not one or not other or one["rate"] is None or other["rate"] is None:
        return "-"
    return f"{one['rate'] - other['rate']:+.2f}"


def ratio(one: dict | None, other: dict | None) -> str:
    """Of CPU seconds."""
    if not one or not other or one["cpu"] is None or not other["cpu"]:
        return "-"
    return f"{one['cpu'] / other['cpu']:.2f}"


def show_errors(rows):
    for row in rows:
        for kind, short in KINDS.items():
            result = row.get(kind)
            if result and (result["errors"] or result.get("error")):
                print(f"{row['file']}, {short}: {result['errors']} of {result['units']}")
                print(f"  said:  {' / '.join(row['references'])}")
                print(f"  heard: {result.get('error') or result['text']}")


def each(what: str, rows, recordings):
    """Goes through the recordings, and says now and then how far it is."""
    begun = told = time.monotonic()
    for number, (row, one) in enumerate(zip(rows, recordings), 1):
        yield row, one
        if time.monotonic() - told > 30 or number == len(rows):
            told = time.monotonic()
            say(f"{what}: {number} of {len(rows)}, {told - begun:.0f} s")


def say(message):
    print(f"speech: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
