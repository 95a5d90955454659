"""Live captions from a whisperwire server: speech goes in while it is spoken, words come out while it is spoken.

One file, Python 3.9 or newer, and the `websockets` package (13 or newer). Copy it beside your program.

    import whisperwire

    with whisperwire.stream("http://localhost:8000", language="en") as live:
        for chunk in microphone:                      # 16-bit samples, 16,000 per second, one channel
            live.send(chunk)
            for event in live.events(timeout=0):      # what has come so far, without waiting
                print(event)
        live.end()
        for event in live.events():                   # the rest, up to Done
            print(event)

    async with whisperwire.astream("http://localhost:8000") as live:
        ...                                           # the same names, awaited; `async for` over events

    print(whisperwire.transcribe_live("a.wav").text)

One task or thread may send while another reads. Both are optional at any moment: events are taken from the network
in the background, and a partial that nobody has read yet is replaced by the next one.

A lost connection is taken up again by itself for as long as the stream lives on (`grace`): what the server had not
received is sent once more, events that were seen already are left out. Whatever cannot be mended is raised as a
`WhisperwireError`. Unknown events become `Unknown`, unknown fields stay in `event.raw`: a newer server does no harm.

Deliberately absent: a microphone, because every program has its own.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import logging
import os
import random
import sys
import threading
import time
import urllib.parse
import wave
from dataclasses import dataclass, field, fields

import websockets
from websockets.asyncio.client import connect as _connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect as _connect_sync

__all__ = [
    "stream", "astream", "transcribe_live", "Live", "AsyncLive", "Conversation", "Transcript",
    "Event", "Ready", "SpeechStarted", "Partial", "Final", "SpeechStopped", "UtteranceDone", "Flushed", "Gap", "Lag",
    "Pong", "Problem", "Done", "Unknown", "Received", "Account", "Word", "WhisperwireError", "ConnectionLost",
]  # fmt: skip

_log = logging.getLogger("whisperwire")
_log.addHandler(logging.NullHandler())  # what breaks is raised here, not logged

DEFAULT_URL = "http://localhost:8000"
GRACE = 10.0  # seconds that a stream outlives its connection, unless told otherwise


# What users call


def stream(url=DEFAULT_URL, *, key=None, grace=GRACE, open_timeout=10.0, **settings) -> Live:
    """Opens a stream and waits until the server is ready.

    `settings` are those of the protocol, all optional: encoding, sample_rate, channels, model, language, languages,
    prompt, keywords, task, partials, words, vad_threshold, silence_ms, prefix_ms. `grace` is how many seconds the
    stream outlives a lost connection; with 0 nothing is resumed. `key` is sent as a bearer token.
    """
    return Live(Conversation(url, key=key, grace=grace, settings=settings), open_timeout)


def astream(url=DEFAULT_URL, *, key=None, grace=GRACE, open_timeout=10.0, **settings) -> AsyncLive:
    """Like `stream`, for asyncio: `async with astream() as live`, or `live = await astream()`."""
    return AsyncLive(Conversation(url, key=key, grace=grace, settings=settings), open_timeout)


def transcribe_live(path, url=DEFAULT_URL, *, realtime=False, on_event=None, key=None, grace=GRACE, **settings):
    """Streams a file and returns its `Transcript`.

    A WAV file of 16-bit samples is sent as samples, and with `realtime` as fast as it was spoken. Any other file is
    sent as it is, for the server to read. `on_event` is called with every event.
    """
    source = _Source(path)
    if realtime and source.seconds_per_chunk is None:
        raise ValueError("only a WAV file of 16-bit samples can be paced")
    transcript = Transcript()

    def take(event):
        transcript.add(event)
        if on_event is not None:
            on_event(event)

    with stream(url, key=key, grace=grace, **{**source.settings, **settings}) as live:
        due = time.monotonic()
        for chunk in source.chunks():
            live.send(chunk)
            if realtime:
                due += source.seconds_per_chunk
            for event in live.events(timeout=max(0.0, due - time.monotonic()) if realtime else 0):
                take(event)
        live.end()
        for event in live.events():
            take(event)
    return transcript


# Errors


class WhisperwireError(Exception):
    """The server said no, or the stream broke.

    `code` is the name in the server's table of errors, `status` the HTTP status, `param` the setting that was wrong,
    `retry_after` the seconds to wait; each is None where there is none.
    """

    def __init__(self, message, *, code=None, status=None, param=None, retry_after=None):
        super().__init__(message)
        self.message, self.code, self.status = message, code, status
        self.param, self.retry_after = param, retry_after


class ConnectionLost(WhisperwireError):
    """The connection broke and could not be resumed."""


# Events


@dataclass(frozen=True)
class Event:
    """What the server says. Times are seconds on the stream's clock. `raw` is the message as it came."""

    seq: int | None = None
    raw: dict = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Received:
    """How much audio has arrived."""

    bytes: int = 0
    samples: int = 0
    messages: int = 0


@dataclass(frozen=True)
class Account:
    """Where every sample went, at 16,000 per second: received == decoded + silence + lost."""

    received: int = 0
    decoded: int = 0
    silence: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Word:
    """A word with its punctuation."""

    word: str = ""
    start: float = 0.0
    end: float = 0.0
    confidence: float = 0.0


@dataclass(frozen=True)
class Ready(Event):
    """The stream is open, or open again, or `configure` was taken: these settings are in force."""

    version: int = 1
    stream: str = field(default="", repr=False)
    settings: dict = field(default_factory=dict)
    received: Received = field(default=Received(), metadata={"as": Received})
    last_seq: int = 0
    caveat: str | None = None


@dataclass(frozen=True)
class SpeechStarted(Event):
    """Somebody began to speak."""

    utterance: int = 0
    at: float = 0.0


@dataclass(frozen=True)
class Partial(Event):
    """The best guess at what is not final yet; it replaces the previous one of its utterance. `stable` will not
    change any more, `tentative` may; both empty take it away."""

    utterance: int = 0
    stable: str = ""
    tentative: str = ""
    start: float = 0.0
    end: float = 0.0

    @property
    def text(self) -> str:
        return self.stable + self.tentative


@dataclass(frozen=True)
class Final(Event):
    """Text that will not change. It stands for what the partials of its utterance have shown so far."""

    utterance: int = 0
    text: str = ""
    start: float = 0.0
    end: float = 0.0
    confidence: float = 0.0
    language: str | None = None
    words: list[Word] | None = field(default=None, metadata={"as": Word})


@dataclass(frozen=True)
class SpeechStopped(Event):
    """The utterance is over; its last final follows."""

    utterance: int = 0
    at: float = 0.0


@dataclass(frozen=True)
class UtteranceDone(Event):
    """All finals of an utterance have been told; there may have been none."""

    utterance: int = 0


@dataclass(frozen=True)
class Flushed(Event):
    """The answer to `flush`: everything up to here has been told."""

    at: float = 0.0


@dataclass(frozen=True)
class Gap(Event):
    """A stretch of audio has no text."""

    start: float = 0.0
    end: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Lag(Event):
    """The server is behind by so many seconds of audio; 0 when it has caught up."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Pong(Event):
    """The answer to `ping`."""


@dataclass(frozen=True)
class Problem(Event):
    """A message of ours was refused and the stream goes on. Errors that end it are raised instead."""

    error: dict = field(default_factory=dict)
    fatal: bool = False

    @property
    def message(self) -> str:
        return str(self.error.get("message") or "")

    @property
    def code(self) -> str | None:
        return self.error.get("code")

    @property
    def param(self) -> str | None:
        return self.error.get("param")


@dataclass(frozen=True)
class Done(Event):
    """All is said: the last event."""

    duration: float = 0.0
    account: Account = field(default=Account(), metadata={"as": Account})


@dataclass(frozen=True)
class Unknown(Event):
    """An event of a newer server; see `raw`."""

    type: str = ""


EVENTS = {
    "ready": Ready, "speech_started": SpeechStarted, "partial": Partial, "final": Final,
    "speech_stopped": SpeechStopped, "utterance_done": UtteranceDone, "flushed": Flushed, "gap": Gap, "lag": Lag,
    "pong": Pong, "error": Problem, "done": Done,
}  # fmt: skip


def event_from(raw: dict) -> Event:
    """Reads a message of the server, whatever it is."""
    return _read(EVENTS.get(raw.get("type"), Unknown), raw, raw=raw)


def _read(kind, source, **more):
    """Takes the known fields; what is missing or null keeps its default."""
    for known in fields(kind):
        value = source.get(known.name) if known.name != "raw" else None
        if value is None:
            continue
        inner = known.metadata.get("as")
        if inner and isinstance(value, list):
            value = [_read(inner, item) for item in value if isinstance(item, dict)]
        elif inner and isinstance(value, dict):
            value = _read(inner, value)
        more[known.name] = value
    return kind(**more)


class Transcript:
    """Finals put together. `text`, `segments` (the finals), `gaps`, `duration` and the `done` event."""

    def __init__(self):
        self.segments: list[Final] = []
        self.gaps: list[Gap] = []
        self.done: Done | None = None

    def add(self, event: Event):
        if isinstance(event, Final):
            self.segments.append(event)
        elif isinstance(event, Gap):
            self.gaps.append(event)
        elif isinstance(event, Done):
            self.done = event

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def duration(self) -> float | None:
        return self.done.duration if self.done else None


# The protocol, without a socket, a clock or a thread

KEPT_SECONDS = 60
KEPT_BYTES = 8 << 20  # what is kept at least: a burst can have more than a minute on the way
LARGEST_MESSAGE = 1 << 20
LONGEST_IN_QUERY = 1_000
SAMPLE_BYTES = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
MENDABLE_CLOSES = {1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015}
MENDABLE_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class Conversation:
    """Everything about the protocol that is no input or output; `Live` and `AsyncLive` only carry its messages.

    Order of calls: connect to `address()`, hand every text to `hear`; send what `audio` and `say` return. After a
    loss ask `lost`; if it returns None, wait for `pause`, connect to `address()` again, hand in texts until `ready`
    and send `replay()` before anything else.
    """

    def __init__(self, url, *, key=None, grace=GRACE, settings=None):
        self.stream = None
        self.inbox = collections.deque()
        self.finished = False
        self.failure = None
        self._url, self._key, self._grace = url, key, grace
        self._query, self._first = _split({k: v for k, v in (settings or {}).items() if v is not None})
        self._settings = {"encoding": "pcm_s16le", "sample_rate": 16_000, "channels": 1, **self._query}
        self._sent_bytes = self._sent_messages = 0
        self._received = Received()
        self._last_seq = 0
        self._ended = False
        self._fatal = None
        self.ready = False  # whether this connection has begun as it should
        self._log = collections.deque()  # (bytes before, messages before, payload): what may have to be sent again
        self._log_bytes = 0
        self._lost_at = None
        self._attempts = 0

    # Opening

    def address(self) -> str:
        """Where to connect: a new stream at first, afterwards the same one."""
        self.ready, self._fatal = False, None
        scheme, rest = str(self._url).split("://", 1) if "://" in str(self._url) else ("http", str(self._url))
        scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
        rest = rest.split("?", 1)[0].split("#", 1)[0].rstrip("/")
        if not rest.endswith("/v1/stream"):
            rest = (rest[: -len("/v1")] if rest.endswith("/v1") else rest) + "/v1/stream"
        if self.stream is None:
            query = {name: _query_value(value) for name, value in self._query.items()}
            query["grace"] = _query_value(self._grace)
        else:
            query = {"stream": self.stream, "after": str(self._last_seq)}
        return f"{scheme}://{rest}?{urllib.parse.urlencode(query)}"

    def headers(self) -> dict:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    # What the server says

    def hear(self, text) -> list[Event]:
        """Reads one message; returns, and puts into the inbox, what is new."""
        try:
            raw = json.loads(text)
        except (ValueError, TypeError):
            raw = None
        if not isinstance(raw, dict):
            raise WhisperwireError("the server sent something that is no message of this protocol")
        event = event_from(raw)
        if event.seq is not None:
            if event.seq <= self._last_seq:
                return []
            self._last_seq = event.seq
        if isinstance(event, Ready):
            self._be_ready(event)
        elif isinstance(event, Done):
            self.finished = True
        elif isinstance(event, Problem) and event.fatal:
            self._fatal = WhisperwireError(event.message, code=event.code, param=event.param)
            return []
        waiting = self.inbox[-1] if self.inbox else None
        if isinstance(event, Partial) and isinstance(waiting, Partial) and waiting.utterance == event.utterance:
            self.inbox[-1] = event
        else:
            self.inbox.append(event)
        return [event]

    def _be_ready(self, ready):
        self.ready, self._lost_at = True, None
        if ready.received.bytes > self._received.bytes:
            self._attempts = 0  # there is progress, so the next loss is a new one
        self.stream = ready.stream or self.stream
        self._settings = {**self._settings, **ready.settings}
        self._grace = ready.settings.get("grace", self._grace)
        self._received = ready.received
        self._forget(self._arrived)

    # What we say

    def opening(self) -> list[str]:
        """What has to be said before any audio: the settings that do not fit into an address."""
        return self.say("configure", **self._first) if self._first else []

    def audio(self, data):
        """Yields the messages for a piece of audio of any size; an Opus packet stays whole."""
        self._check_open()
        data = bytes(data)
        step = len(data) if self._settings["encoding"] == "opus" else LARGEST_MESSAGE
        for at in range(0, len(data), step or 1):
            piece = data[at : at + step]
            self._keep(piece)
            self._sent_bytes += len(piece)
            self._sent_messages += 1
            yield piece

    def say(self, kind, **more) -> list[str]:
        self._check_open()
        text = json.dumps({"type": kind, **more})
        if kind != "ping":
            self._keep(text)
        self._ended = kind == "end"
        return [text]

    def _check_open(self):
        if self.failure:
            raise self.failure
        if self._ended or self.finished:
            raise WhisperwireError("the stream has been ended already")

    # Losing and mending a connection

    @property
    def mendable(self) -> bool:
        return self._grace > 0 and self.stream is not None and not self.finished and not self._fatal

    @property
    def room(self) -> bool:
        """Whether what is sent while there is no connection can still be kept."""
        return self._log_bytes < self._most_kept() // 2

    def lost(self, close_code, reason, now):
        """Why the stream is over, or None if the connection should be taken up again."""
        if self.finished:
            return None
        if self._fatal:
            status = close_code - 4000 if 4400 <= close_code < 4600 else None
            self._fatal.status = 503 if close_code == 1001 else status
            return self._fatal
        if close_code == 4409:
            return WhisperwireError("another connection has taken the stream over", code="conflict", status=409)
        if close_code >= 4000:
            status = close_code - 4000 if 4400 <= close_code < 4600 else None
            return WhisperwireError(reason or f"the server closed with {close_code}", status=status)
        if not self.mendable or close_code not in MENDABLE_CLOSES:
            return ConnectionLost(f"the connection was lost ({close_code}{': ' + reason if reason else ''})")
        if self._lost_at is None:
            self._lost_at = now
        return None

    def pause(self, now, error=None) -> float:
        """Seconds to wait before the next attempt. Raises when the stream cannot live any more."""
        if error is not None and error.status is not None and error.status not in MENDABLE_STATUSES:
            raise error
        wait = min(2.0, 0.1 * 2**self._attempts) * random.uniform(0.5, 1.0) if self._attempts else 0.0
        wait = max(wait, getattr(error, "retry_after", None) or 0.0)
        self._attempts += 1
        if now + wait > self._lost_at + self._grace:
            raise ConnectionLost("the connection was lost and could not be resumed in time") from error
        return wait

    def replay(self) -> list:
        """What the server has not received, in order: the rest of the audio, and commands after it."""
        kept_from = next((at for at, _, payload in self._log if isinstance(payload, bytes)), self._sent_bytes)
        packets = self._settings["encoding"] == "opus"
        if packets:
            kept_from = next((at for _, at, payload in self._log if isinstance(payload, bytes)), self._sent_messages)
        if (self._received.messages if packets else self._received.bytes) < kept_from:
            raise ConnectionLost("the connection was lost and more audio with it than is kept for sending again")
        messages = []
        for entry in self._log:
            if not self._arrived(entry):
                at, _, payload = entry
                cut = 0 if packets or isinstance(payload, str) else max(0, self._received.bytes - at)
                messages.append(payload[cut:])
        return messages

    def _arrived(self, entry) -> bool:
        at_bytes, at_messages, payload = entry
        if self._settings["encoding"] == "opus":
            reached, at, size = self._received.messages, at_messages, 1
        else:
            reached, at, size = self._received.bytes, at_bytes, len(payload)
        # A command has surely arrived only if audio that was sent after it has; saying it twice does no harm.
        return at < reached if isinstance(payload, str) else at + size <= reached

    def _keep(self, payload):
        if self._grace <= 0:
            return
        self._log.append((self._sent_bytes, self._sent_messages, payload))
        self._log_bytes += len(payload)
        most = self._most_kept()
        self._forget(lambda _: self._log_bytes > most)

    def _forget(self, condition):
        while self._log and condition(self._log[0]):
            self._log_bytes -= len(self._log.popleft()[2])

    def _most_kept(self):
        width = SAMPLE_BYTES.get(self._settings["encoding"], 0)
        rate = int(self._settings.get("sample_rate") or 0) * int(self._settings.get("channels") or 1)
        return max(KEPT_BYTES, KEPT_SECONDS * rate * width)


def _split(settings):
    """Into what goes into the address, and what is too long for it or would be torn at its commas."""

    def fits(value):
        items = value if isinstance(value, (list, tuple)) else [value]
        in_list = isinstance(value, (list, tuple))
        return sum(len(str(i)) for i in items) <= LONGEST_IN_QUERY and not (in_list and any("," in i for i in items))

    query = {name: value for name, value in settings.items() if fits(value)}
    return query, {name: value for name, value in settings.items() if name not in query}


def _query_value(value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return str(value)


def _refusal(error) -> WhisperwireError:
    """An exception of opening a connection, as one of ours. Its status is None if the server was not reached."""
    if not isinstance(error, InvalidStatus):
        return ConnectionLost(f"there is no connection to the server: {error or type(error).__name__}")
    response = error.response
    detail = {}
    try:
        detail = json.loads(response.body or b"{}").get("error", {})
    except (ValueError, AttributeError):
        pass
    try:
        retry_after = float(response.headers.get("Retry-After"))
    except (TypeError, ValueError):
        retry_after = None
    return WhisperwireError(
        detail.get("message") or f"the server refused the stream with HTTP {response.status_code}",
        code=detail.get("code"), param=detail.get("param"), status=response.status_code, retry_after=retry_after,
    )  # fmt: skip


def _close_of(error):
    """Code and reason of a closed connection; 1006 where it just broke."""
    closed = getattr(error, "rcvd", None)
    return (closed.code, closed.reason) if closed else (1006, "")


def _connection_options(talk, open_timeout, sync):
    options = dict(
        additional_headers=talk.headers(), compression=None, open_timeout=open_timeout, close_timeout=2,
        max_size=16 << 20, subprotocols=["whisperwire.v1"], logger=_log,
    )  # fmt: skip
    if not sync or int(websockets.__version__.split(".")[0]) >= 15:
        # The answer waits behind the audio that a server under load has not read yet: be patient.
        options.update(ping_interval=20, ping_timeout=60)
    return options


# The assertion is one of `websockets` itself: older versions trip over connections that break at the wrong moment.
LOSSES = (ConnectionClosed, OSError, EOFError, TimeoutError, asyncio.TimeoutError, AssertionError)
REFUSALS = (InvalidHandshake, *LOSSES)


# Threads


class Live:
    """A stream for threads; see `stream`. Leaving its `with` block before the end hangs up."""

    def __init__(self, talk: Conversation, open_timeout=10.0):
        self._talk = talk
        self._open_timeout = open_timeout
        self._closing = False
        self._gate = threading.Lock()  # one sender at a time, and nobody while what was lost is sent again
        self._news = threading.Condition()  # guards the conversation and the socket, but not the sending
        try:
            self._socket = self._open()
        except REFUSALS as error:
            raise _refusal(error) from error
        self._reader = threading.Thread(target=self._read, name="whisperwire", daemon=True)
        self._reader.start()
        self._transmit(self._talk.opening)

    @property
    def stream(self) -> str:
        """The name of the stream: a secret, for whoever knows it may listen."""
        return self._talk.stream

    def send(self, audio):
        """Sends audio, any number of bytes; with `encoding="opus"` one packet. Waits while the server is behind."""
        self._transmit(lambda: self._talk.audio(audio))

    def configure(self, **settings):
        """Changes settings; what is left out stays. Answered with `Ready`, or with `Problem`."""
        self._transmit(lambda: self._talk.say("configure", **settings))

    def flush(self):
        """Finishes the open utterance now, as if a pause had been heard. Answered with `Flushed`, once all is told."""
        self._transmit(lambda: self._talk.say("flush"))

    def end(self):
        """No more audio will come. The rest of the events follows, `Done` last."""
        self._transmit(lambda: self._talk.say("end"))

    def ping(self):
        """Answered with `Pong`; keeps a silent stream open."""
        self._transmit(lambda: self._talk.say("ping"))

    def events(self, timeout=None):
        """Yields events: up to the end of the stream, or for at most `timeout` seconds (0: what is there)."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._news:
                while not self._talk.inbox and not self._over():
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        return
                    self._news.wait(left)
                if not self._talk.inbox:
                    if self._talk.failure and not self._closing:
                        raise self._talk.failure
                    return
                event = self._talk.inbox.popleft()
            yield event

    def close(self):
        """Hangs up: what is not final yet is dropped. Harmless after the end."""
        with self._news:
            self._closing = True
            self._news.notify_all()
            socket = self._socket
        if socket is not None:
            if self._gate.acquire(timeout=2):
                self._gate.release()
            else:  # a sender is stuck, and closing properly would wait for it
                _cut(socket)
            socket.close()
        self._reader.join(timeout=5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _over(self):
        return self._talk.finished or self._talk.failure or self._closing

    def _open(self):
        """Connects, and listens until the server says how much it has received."""
        with self._news:
            address, options = self._talk.address(), _connection_options(self._talk, self._open_timeout, sync=True)
        socket = _connect_sync(address, **options).__enter__()  # what `with` calls; `close` is its other end
        try:
            while not self._talk.ready:
                self._hear(socket.recv(timeout=self._open_timeout))
            return socket
        except LOSSES as error:
            socket.close()
            raise self._talk.lost(*_close_of(error), time.monotonic()) or _refusal(error) from error
        except BaseException:
            socket.close()
            raise

    def _transmit(self, messages):
        with self._news:
            # Without a connection, what is sent is kept for later, up to what can be kept.
            self._news.wait_for(lambda: self._socket is not None or self._talk.room or self._over())
        with self._gate:
            with self._news:
                outgoing, socket = list(messages()), self._socket
            self._push(socket, outgoing)

    def _push(self, socket, outgoing):
        if socket is None:
            return
        try:
            for message in outgoing:
                socket.send(message)
        except LOSSES:
            # The reader sees the same; it mends it, or knows better why the stream is over.
            if not self._talk.mendable and not self._talk.finished:
                self._reader.join(timeout=5)
                raise self._talk.failure or ConnectionLost("the connection was lost") from None

    def _read(self):
        try:
            while self._listen():
                self._resume()
            self._settle(None)
        except WhisperwireError as error:
            self._settle(error)
        except Exception as error:  # a bug must not leave the readers waiting for ever
            self._settle(WhisperwireError(f"{type(error).__name__}: {error}"))

    def _listen(self):
        """Takes events in until the connection ends. True if it is to be taken up again."""
        socket = self._socket
        try:
            while True:
                self._hear(socket.recv())
        except LOSSES as error:
            with self._news:
                failure = None if self._closing else self._talk.lost(*_close_of(error), time.monotonic())
                if failure is None and not self._over():
                    self._socket = None
            socket.close()
            if failure:
                raise failure from None
            return self._socket is None

    def _resume(self):
        error = socket = None
        while socket is None:
            with self._news:
                wait = self._talk.pause(time.monotonic(), error)
                if self._news.wait_for(lambda: self._closing, wait):
                    raise ConnectionLost("closed while there was no connection")
            try:
                socket = self._open()
            except REFUSALS as refused:
                error = _refusal(refused)
            except WhisperwireError as refused:
                error = refused
        self._gate.acquire()
        try:
            with self._news:
                missing, self._socket = self._talk.replay(), socket
                self._news.notify_all()
        except BaseException:
            self._gate.release()
            socket.close()
            raise
        # Meanwhile reading goes on: the server may want to tell its events before it takes more audio.
        threading.Thread(target=self._replay, args=(socket, missing), daemon=True).start()

    def _replay(self, socket, missing):
        try:
            self._push(socket, missing)
        except WhisperwireError:
            pass  # the reader reports it
        finally:
            self._gate.release()

    def _hear(self, text):
        with self._news:
            self._talk.hear(text)
            self._news.notify_all()

    def _settle(self, failure):
        with self._news:
            self._talk.failure = failure
            self._talk.finished = failure is None
            self._news.notify_all()


def _cut(connection):
    try:
        connection.socket.shutdown(2)
    except OSError:
        pass


# Tasks


class AsyncLive:
    """A stream for asyncio; see `astream`. Leaving its `async with` block before the end hangs up."""

    def __init__(self, talk: Conversation, open_timeout=10.0):
        self._talk = talk
        self._open_timeout = open_timeout
        self._closing = False
        self._socket = None

    @property
    def stream(self) -> str:
        """The name of the stream: a secret, for whoever knows it may listen."""
        return self._talk.stream

    async def send(self, audio):
        """Sends audio, any number of bytes; with `encoding="opus"` one packet. Waits while the server is behind."""
        await self._transmit(self._talk.audio(audio))

    async def configure(self, **settings):
        """Changes settings; what is left out stays. Answered with `Ready`, or with `Problem`."""
        await self._transmit(self._talk.say("configure", **settings))

    async def flush(self):
        """Finishes the open utterance now, as if a pause had been heard. Answered with `Flushed`, once all is told."""
        await self._transmit(self._talk.say("flush"))

    async def end(self):
        """No more audio will come. The rest of the events follows, `Done` last."""
        await self._transmit(self._talk.say("end"))

    async def ping(self):
        """Answered with `Pong`; keeps a silent stream open."""
        await self._transmit(self._talk.say("ping"))

    async def events(self, timeout=None):
        """Yields events: up to the end of the stream, or for at most `timeout` seconds (0: what is there)."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            while not self._talk.inbox and not self._over():
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return
                await self._wait(left)
            if not self._talk.inbox:
                if self._talk.failure and not self._closing:
                    raise self._talk.failure
                return
            yield self._talk.inbox.popleft()

    async def close(self):
        """Hangs up: what is not final yet is dropped. Harmless after the end."""
        self._closing = True
        self._news.set()
        if self._socket is not None:
            await self._socket.close()
        await asyncio.wait([self._reader], timeout=5)
        for task in (self._reader, self._replaying):
            if task is not None:
                task.cancel()

    def __await__(self):
        return self.__aenter__().__await__()

    async def __aenter__(self):
        self._gate = asyncio.Lock()  # one sender at a time, and nobody while what was lost is sent again
        self._news = asyncio.Event()
        self._replaying = None
        try:
            self._socket = await self._open()
        except REFUSALS as error:
            raise _refusal(error) from error
        self._reader = asyncio.ensure_future(self._read())
        await self._transmit(self._talk.opening())
        return self

    async def __aexit__(self, *_):
        await self.close()

    def _over(self):
        return self._talk.finished or self._talk.failure or self._closing

    async def _wait(self, timeout):
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), timeout)
        except (TimeoutError, asyncio.TimeoutError):
            pass

    async def _open(self):
        """Connects, and listens until the server says how much it has received."""
        options = _connection_options(self._talk, self._open_timeout, sync=False)
        socket = await _connect_async(self._talk.address(), **options)
        try:
            while not self._talk.ready:
                self._hear(await asyncio.wait_for(socket.recv(), self._open_timeout))
            return socket
        except LOSSES as error:
            await socket.close()
            raise self._talk.lost(*_close_of(error), time.monotonic()) or _refusal(error) from error
        except BaseException:
            await socket.close()
            raise

    async def _transmit(self, outgoing):
        while self._socket is None and not self._talk.room and not self._over():
            await self._wait(None)
        async with self._gate:
            await self._push(self._socket, outgoing)

    async def _push(self, socket, outgoing):
        outgoing = iter(outgoing)
        try:
            for message in outgoing:
                if socket is not None:
                    await socket.send(message)
        except LOSSES:
            # The reader sees the same; it mends it, or knows better why the stream is over.
            if not self._talk.mendable and not self._talk.finished:
                await asyncio.wait([self._reader], timeout=5)
                raise self._talk.failure or ConnectionLost("the connection was lost") from None
            for _ in outgoing:
                pass  # kept, and sent again later

    async def _read(self):
        try:
            while await self._listen():
                await self._resume()
            self._settle(None)
        except WhisperwireError as error:
            self._settle(error)
        except Exception as error:  # a bug must not leave the readers waiting for ever
            self._settle(WhisperwireError(f"{type(error).__name__}: {error}"))

    async def _listen(self):
        """Takes events in until the connection ends. True if it is to be taken up again."""
        socket = self._socket
        try:
            while True:
                self._hear(await socket.recv())
        except LOSSES as error:
            failure = None if self._closing else self._talk.lost(*_close_of(error), time.monotonic())
            if failure is None and not self._over():
                self._socket = None
            await socket.close()
            if failure:
                raise failure from None
            return self._socket is None

    async def _resume(self):
        error = socket = None
        while socket is None:
            until = time.monotonic() + self._talk.pause(time.monotonic(), error)
            while not self._closing and time.monotonic() < until:
                await self._wait(until - time.monotonic())
            if self._closing:
                raise ConnectionLost("closed while there was no connection")
            try:
                socket = await self._open()
            except REFUSALS as refused:
                error = _refusal(refused)
            except WhisperwireError as refused:
                error = refused
        await self._gate.acquire()
        try:
            missing, self._socket = self._talk.replay(), socket
        except BaseException:
            self._gate.release()
            await socket.close()
            raise
        self._news.set()
        # Meanwhile reading goes on: the server may want to tell its events before it takes more audio.
        self._replaying = asyncio.ensure_future(self._replay(socket, missing))

    async def _replay(self, socket, missing):
        try:
            await self._push(socket, missing)
        except WhisperwireError:
            pass  # the reader reports it
        finally:
            self._gate.release()

    def _hear(self, text):
        self._talk.hear(text)
        self._news.set()

    def _settle(self, failure):
        self._talk.failure = failure
        self._talk.finished = failure is None
        self._news.set()


# Files, and the command line


class _Source:
    """A file as chunks: 100 ms of samples each if it is a WAV file of 16-bit samples, else the bytes as they are."""

    def __init__(self, path):
        self._path = path
        try:
            with wave.open(os.fspath(path), "rb") as reader:
                self._pcm = reader.getsampwidth() == 2
                rate, channels = reader.getframerate(), reader.getnchannels()
        except (wave.Error, EOFError):
            self._pcm = False
        if self._pcm:
            self._frames = max(1, rate // 10)
            self.seconds_per_chunk = self._frames / rate
            self.settings = {"encoding": "pcm_s16le", "sample_rate": rate, "channels": channels}
        else:
            self.seconds_per_chunk = None
            self.settings = {"encoding": "container"}

    def chunks(self):
        if self._pcm:
            with wave.open(os.fspath(self._path), "rb") as reader:
                while chunk := reader.readframes(self._frames):
                    yield chunk
        else:
            with open(self._path, "rb") as reader:
                while chunk := reader.read(64 << 10):
                    yield chunk


class _Screen:
    """Finals as lines; on a terminal the partial under them, as one line that is written over."""

    def __init__(self, out):
        self._out = out
        self._live = out.isatty()

    def show(self, event):
        if isinstance(event, Final):
            self._write("\r\033[K" if self._live else "", f"[{_clock(event.start)}] {event.text}\n")
        elif isinstance(event, Gap):
            text = f"[{_clock(event.start)}] (no text for {event.end - event.start:.1f} s: {event.reason})\n"
            self._write("\r\033[K" if self._live else "", text)
        elif isinstance(event, Done) and self._live:
            self._write("\r\033[K")
        elif isinstance(event, Partial) and self._live:
            columns = max(20, os.get_terminal_size(self._out.fileno()).columns)
            stable, tentative = event.stable, event.tentative
            over = max(0, len(stable) + len(tentative) + 1 - columns)
            stable, tentative = stable[over:], tentative[max(0, over - len(stable)) :]
            self._write("\r\033[K", f"{stable}\033[2m{tentative}\033[0m")

    def _write(self, *parts):
        self._out.write("".join(parts))
        self._out.flush()


def _clock(seconds) -> str:
    return f"{int(seconds) // 60:02}:{seconds % 60:05.2f}"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="whisperwire.py", description="Prints live captions of a file.")
    parser.add_argument("file", help="a WAV file, or any other audio that the server reads")
    parser.add_argument("--url", default=os.environ.get("WHISPERWIRE_URL", DEFAULT_URL), help="default: %(default)s")
    parser.add_argument("--key", default=os.environ.get("WHISPERWIRE_API_KEY"), help="or $WHISPERWIRE_API_KEY")
    parser.add_argument("--realtime", action="store_true", help="send as fast as it was spoken (16-bit WAV only)")
    parser.add_argument("--language", help="a code or an English name; default: found out")
    parser.add_argument("--model", help="default: the server's")
    options = parser.parse_args(arguments)
    screen = _Screen(sys.stdout)
    try:
        transcribe_live(
            options.file, options.url, key=options.key, realtime=options.realtime, on_event=screen.show,
            language=options.language, model=options.model,
        )  # fmt: skip
    except (WhisperwireError, OSError, ValueError) as error:
        code = f" ({error.code})" if getattr(error, "code", None) else ""
        print(f"whisperwire: {error}{code}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
