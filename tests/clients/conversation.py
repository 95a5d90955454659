"""A live conversation with the server through the Realtime connections of the `openai` package.

`talking` opens one in either shape, collects what the server says while the test goes on, and in the end checks what
holds for every conversation.
"""

import base64
import os
import subprocess
import threading
import time
import typing
from functools import cache

from openai.types.beta.realtime import RealtimeServerEvent as BetaServerEvent
from openai.types.realtime import RealtimeServerEvent

from test_openai_python import AUDIO, client

TRANSCRIPTION_SESSION = {"intent": "transcription"}
BUFFER, ITEM = "input_audio_buffer.", "conversation.item."
TRANSCRIPTION = ITEM + "input_audio_transcription."
CHUNK_MS = 40
PATIENCE = 60  # seconds until a test gives up waiting for an event; a debug build on a busy machine is slow


def by_type(union):
    """The class that the package has for each type of event."""
    classes = typing.get_args(typing.get_args(union)[0])
    return {typing.get_args(one.model_fields["type"].annotation)[0]: one for one in classes}


KNOWN = {"ga": by_type(RealtimeServerEvent), "beta": by_type(BetaServerEvent)}
# What this version of the package has no class for in its beta, although OpenAI documents it.
UNKNOWN_TO_BETA = {"transcription_session.created", BUFFER + "timeout_triggered"}


def is_known(event, shape):
    return type(event) is KNOWN[shape].get(event.type) or shape == "beta" and event.type in UNKNOWN_TO_BETA


@cache
def audio(recording, codec="pcm_s16le", rate=24000):
    """A recording as it is sent: bytes without a header, one channel."""
    container = {"pcm_s16le": "s16le", "pcm_mulaw": "mulaw", "pcm_alaw": "alaw"}[codec]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", AUDIO / recording, "-ac", "1", "-ar", str(rate)]
    command += ["-c:a", codec, "-f", container, "-"]
    return subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE).stdout


def silence(seconds, rate=24000):
    return bytes(2 * int(seconds * rate))


def chunks(data, bytes_per_second=48000):
    size = bytes_per_second * CHUNK_MS // 1000
    return [base64.b64encode(data[at : at + size]).decode() for at in range(0, len(data), size)]


def plain(model):
    """As it came over the wire. The package knows one sample rate only, and would warn of the others."""
    return model if isinstance(model, dict) else model.to_dict(warnings=False)


class Conversation:
    """A connection, and what has been heard on it so far, each event with the time at which it came."""

    def __init__(self, connection, shape="ga"):
        self.connection, self.shape = connection, shape
        self.events, self.times, self.read_to = [], [], 0
        self.ended = None
        self.news = threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            for event in self.connection:
                with self.news:
                    self.events.append(event)
                    self.times.append(time.monotonic())
                    self.news.notify_all()
            ended = "closed"
        except Exception as error:
            ended = repr(error)
        with self.news:
            self.ended = ended
            self.news.notify_all()

    def next(self, kind):
        """The next event of this kind; those before it are passed over."""
        deadline = time.monotonic() + PATIENCE
        with self.news:
            while True:
                while self.read_to < len(self.events):
                    self.read_to += 1
                    if self.events[self.read_to - 1].type == kind:
                        return self.events[self.read_to - 1]
                if self.ended is not None or not self.news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no {kind} ({self.ended or 'still open'}) after {self.kinds()}")

    def configure(self, **settings):
        """Sets the session and returns what is in force."""
        if self.shape == "beta":
            self.connection.transcription_session.update(session=settings)
            return plain(self.next("transcription_session.updated").session)
        session = {"type": "transcription", "audio": {"input": settings}}
        if "include" in settings:
            session["include"] = settings.pop("include")
        self.connection.session.update(session=session)
        return plain(self.next("session.updated").session)

    def send(self, data, bytes_per_second=48000):
        """As fast as it goes."""
        for part in chunks(data, bytes_per_second):
            self.connection.input_audio_buffer.append(audio=part)

    def speak(self, data, bytes_per_second=48000):
        """In real time; returns when the last of it was sent."""
        begun = time.monotonic()
        for number, part in enumerate(chunks(data, bytes_per_second)):
            time.sleep(max(0.0, begun + number * CHUNK_MS / 1000 - time.monotonic()))
            self.connection.input_audio_buffer.append(audio=part)
        return time.monotonic()

    def commit(self):
        """Commits by hand and returns the item's words."""
        self.connection.input_audio_buffer.commit()
        item = self.next(BUFFER + "committed").item_id
        completed = self.next(TRANSCRIPTION + "completed")
        assert completed.item_id == item
        return completed

    def kinds(self):
        return [event.type for event in self.events]

    def of(self, item_id):
        """The events about one item, in order."""
        about = lambda event: getattr(event, "item_id", None) or getattr(getattr(event, "item", None), "id", None)
        return [event for event in self.events if about(event) == item_id]

    def check(self):
        """What holds for every conversation: types are known and well filled, names unique, nothing is taken back."""
        for event in self.events:
            assert is_known(event, self.shape), event
            if type(event) is KNOWN[self.shape].get(event.type) and "session." not in event.type:
                type(event).model_validate(plain(event))
        names = [event.event_id for event in self.events]
        assert all(names) and len(set(names)) == len(names)
        ends = (TRANSCRIPTION + "completed", TRANSCRIPTION + "failed")
        ended = [event.item_id for event in self.events if event.type in ends]
        committed = [event.item_id for event in self.events if event.type == BUFFER + "committed"]
        assert ended == committed[: len(ended)], "exactly one end for each item, in order"
        for event in self.events:
            if event.type == TRANSCRIPTION + "completed":
                *deltas, last = [one for one in self.of(event.item_id) if one.type.startswith(TRANSCRIPTION)]
                assert last is event, "no words of an item after its end"
                assert "".join(delta.delta for delta in deltas).strip() == event.transcript.strip()


def dial(api, shape, server="BUNDLED", query=TRANSCRIPTION_SESSION):
    if shape == "ga":
        return api.realtime.connect(extra_query=query)
    # In the beta the package insists on TLS, unless it is told an address of its own for WebSockets.
    address = os.environ[f"WHISPERWIRE_{server}"].replace("http", "ws", 1) + "/v1"
    beta = api.with_options(websocket_base_url=address).beta
    return beta.realtime.connect(model="gpt-4o-transcribe", extra_query=query)


class talking:
    """A conversation until the end of the block, and then what holds for all of them."""

    def __init__(self, shape="ga", server="BUNDLED", key="any", query=TRANSCRIPTION_SESSION):
        self.client, self.shape = client(server, key), shape
        self.connect = dial(self.client, shape, server, query)

    def __enter__(self):
        try:
            self.conversation = Conversation(self.connect.enter(), self.shape)
        except BaseException:
            self.client.close()
            raise
        return self.conversation

    def __exit__(self, failed, *_):
        self.conversation.connection.close()
        self.conversation.reader.join(PATIENCE)
        self.client.close()
        if failed is None:
            self.conversation.check()


def first_session(talk):
    """The session as it was before anything was asked for, which is the first that the server says."""
    created = talk.next("transcription_session.created" if talk.shape == "beta" else "session.created")
    assert talk.events[0] is created
    return plain(created.session)


def manual(talk, **settings):
    return talk.configure(turn_detection=None, **settings)
