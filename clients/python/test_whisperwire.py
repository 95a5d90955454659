"""Tests of the Python client: the protocol's fixtures, a small server on the loopback, and a real one if there is one.

    python -m unittest -v test_whisperwire            # in this folder, with `websockets` installed
    WHISPERWIRE_TEST_URL=http://127.0.0.1:8000 …      # also against that server (any engine)

The server here does not recognise speech. It answers every second of audio with a final that names the checksum of
the bytes, so that a lost, doubled or changed byte changes the transcript.
"""

import asyncio
import contextlib
import io
import json
import logging
import os
import pathlib
import random
import socket
import struct
import tempfile
import threading
import time
import unittest
import urllib.parse
import wave
import zlib

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

import whisperwire

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "protocol" / "fixtures" / "stream"
SECOND = 32_000  # bytes of 16-bit samples at 16,000 per second
AUDIO = random.Random(6455).randbytes(10 * SECOND + 1_001)


class Fixtures(unittest.TestCase):
    def test_every_server_message_becomes_its_event(self):
        names = sorted(FIXTURES.glob("server_*.json"))
        self.assertGreaterEqual(len(names), 10, f"fixtures are missing in {FIXTURES}")
        seen = set()
        for name in names:
            raw = json.loads(name.read_text())
            event = whisperwire.event_from(raw)
            seen.add(type(event))
            self.assertIs(type(event), whisperwire.EVENTS[raw["type"]], name)
            for key, value in raw.items():
                if key == "type":
                    continue
                mine = getattr(event, key)
                if key in ("received", "account"):
                    mine = vars(mine)
                elif key == "words":
                    mine = [vars(word) for word in mine]
                self.assertEqual(mine, value, f"{name.name}: {key}")
        self.assertEqual(seen, set(whisperwire.EVENTS.values()))

    def test_what_we_say_is_what_the_fixtures_say(self):
        names = sorted(FIXTURES.glob("client_*.json"))
        self.assertEqual(len(names), 4)
        for name in names:
            wanted = json.loads(name.read_text())
            settings = dict(wanted)
            said = whisperwire.Conversation("http://h").say(settings.pop("type"), **settings)
            self.assertEqual([json.loads(text) for text in said], [wanted], name)

    def test_a_whole_conversation(self):
        talk = whisperwire.Conversation("http://h", grace=0)
        transcript = whisperwire.Transcript()
        sent = messages = 0
        for turn in json.loads((FIXTURES / "conversation.json").read_text()):
            if "audio_bytes" in turn:
                pieces = list(talk.audio(bytes(turn["audio_bytes"])))
                sent += sum(map(len, pieces))
                messages += 1
            elif turn["from"] == "client":
                kind = turn["message"].pop("type")
                talk.say(kind, **turn["message"])
            else:
                for event in talk.hear(json.dumps(turn["message"])):
                    transcript.add(event)
                    if isinstance(event, whisperwire.Ready):
                        self.assertEqual((event.received.bytes, event.received.messages), (sent, messages))
        self.assertTrue(talk.finished)
        self.assertIn("before the market is awake. Thank you for listening.", transcript.text)
        self.assertEqual(len(transcript.gaps), 1)
        account = transcript.done.account
        self.assertEqual(account.received, account.decoded + account.silence + account.lost)
        self.assertEqual(account.received, sent // 2)

    def test_what_is_unknown_is_no_error(self):
        talk = whisperwire.Conversation("http://h")
        (event,) = talk.hear('{"type":"speaker_changed","seq":1,"speaker":"B"}')
        self.assertIsInstance(event, whisperwire.Unknown)
        self.assertEqual((event.type, event.seq, event.raw["speaker"]), ("speaker_changed", 1, "B"))
        (event,) = talk.hear('{"type":"final","seq":2,"text":"yes","mood":"calm","words":null}')
        self.assertEqual((event.text, event.raw["mood"], event.words), ("yes", "calm", None))
        self.assertEqual(talk.hear('{"type":"final","seq":2,"text":"yes"}'), [], "a number is heard once")
        for nonsense in ("", "[]", "nothing", b"\xff"):
            with self.assertRaises(whisperwire.WhisperwireError):
                talk.hear(nonsense)


class Pure(unittest.TestCase):
    """The conversation without a socket."""

    def ready(self, talk, bytes=0, messages=0, **settings):
        received = {"bytes": bytes, "samples": bytes // 2, "messages": messages}
        settings = {"grace": 10.0, **settings}
        talk.hear(json.dumps({"type": "ready", "stream": "s", "settings": settings, "received": received}))

    def test_addresses(self):
        for given in ("http://h:8000", "http://h:8000/", "ws://h:8000/v1", "h:8000", "http://h:8000/v1/stream?x=1"):
            self.assertEqual(whisperwire.Conversation(given, grace=0).address(), "ws://h:8000/v1/stream?grace=0")
        lists = {"languages": ["de", "en"], "keywords": ["a,b"]}
        settings = {"partials": False, **lists, "prompt": "x" * 2000, "task": None}
        talk = whisperwire.Conversation("https://h/api", grace=2.5, settings=settings)
        self.assertEqual(talk.address(), "wss://h/api/v1/stream?partials=false&languages=de%2Cen&grace=2.5")
        (first,) = talk.opening()
        self.assertEqual(json.loads(first), {"type": "configure", "keywords": ["a,b"], "prompt": "x" * 2000})
        talk.hear('{"type":"ready","stream":"a b","settings":{"grace":2.5}}')
        talk.hear('{"type":"final","seq":7}')
        self.assertEqual(talk.address(), "wss://h/api/v1/stream?stream=a+b&after=7")

    def test_replay_begins_where_the_server_stopped(self):
        for received, wanted in [
            (0, "configure abcd ef flush gh"),
            (3, "d ef flush gh"),
            (6, "flush gh"),
            (7, "h"),
            (8, ""),
        ]:
            talk = whisperwire.Conversation("http://h")
            self.ready(talk)
            log = talk.say("configure", words=True)
            for piece in (b"abcd", b"ef"):
                log += talk.audio(piece)
            log += talk.say("flush")
            log += talk.audio(b"gh")
            log += talk.say("ping")
            self.ready(talk, received)
            again = [m.decode() if isinstance(m, bytes) else json.loads(m)["type"] for m in talk.replay()]
            self.assertEqual(" ".join(again), wanted, received)

    def test_replay_of_packets_counts_messages(self):
        talk = whisperwire.Conversation("http://h", settings={"encoding": "opus"})
        self.ready(talk, encoding="opus")
        for packet in (b"a" * 100, b"b" * 50, b"c" * 3_000_000):
            self.assertEqual(len(list(talk.audio(packet))), 1, "a packet stays whole")
        self.ready(talk, bytes=100, messages=1, encoding="opus")
        self.assertEqual([m[:1] for m in talk.replay()], [b"b", b"c"])

    def test_what_is_kept_is_bounded_and_a_hole_is_an_error(self):
        talk = whisperwire.Conversation("http://h", settings={"sample_rate": 48_000, "channels": 8})
        self.ready(talk, sample_rate=48_000, channels=8)
        minute = 60 * 48_000 * 8 * 2
        for _ in range(100):
            for _ in talk.audio(bytes(1 << 20)):
                pass
        kept = sum(len(payload) for _, _, payload in talk._log)
        self.assertLessEqual(kept, minute)
        self.assertGreater(kept, minute - (2 << 20))
        self.ready(talk, 100 << 20)
        self.assertEqual(talk.replay(), [])
        talk = whisperwire.Conversation("http://h", settings={"encoding": "container"})
        self.ready(talk, encoding="container")
        for _ in talk.audio(bytes(9 << 20)):
            pass
        with self.assertRaises(whisperwire.ConnectionLost):
            talk.replay()

    def test_only_the_latest_partial_waits(self):
        talk = whisperwire.Conversation("http://h")
        for text in ("a", "a b", "a b c"):
            talk.hear(json.dumps({"type": "partial", "utterance": 0, "stable": text}))
        talk.hear('{"type":"partial","utterance":1,"stable":"d"}')
        self.assertEqual([event.text for event in talk.inbox], ["a b c", "d"])

    def test_which_losses_are_mended(self):
        for code, mended in [(1006, True), (1001, True), (1011, True), (1000, False), (1002, False), (4409, False)]:
            talk = whisperwire.Conversation("http://h")
            self.ready(talk)
            self.assertEqual(talk.lost(code, "", 0.0) is None, mended, code)
        self.assertEqual(talk.lost(4409, "", 0.0).code, "conflict")
        talk = whisperwire.Conversation("http://h", grace=0)
        self.ready(talk, grace=0.0)
        self.assertIsInstance(talk.lost(1006, "", 0.0), whisperwire.ConnectionLost)

    def test_attempts_come_less_often_and_end_with_the_grace(self):
        talk = whisperwire.Conversation("http://h")
        self.ready(talk)
        self.assertIsNone(talk.lost(1006, "", 100.0))
        self.assertEqual(talk.pause(100.0), 0.0)
        self.assertEqual(talk.pause(100.0, whisperwire.WhisperwireError("", status=503, retry_after=4.0)), 4.0)
        with self.assertRaises(whisperwire.WhisperwireError) as caught:
            talk.pause(100.0, whisperwire.WhisperwireError("gone", code="not_found", status=404))
        self.assertEqual(caught.exception.code, "not_found")
        with self.assertRaises(whisperwire.ConnectionLost):
            talk.pause(110.5, whisperwire.ConnectionLost("refused"))


class MockServer:
    """The server's side of the protocol over checksums. `cuts`: amounts of audio after which a connection breaks."""

    def __init__(self, cuts=(), key=None, most_grace=30.0):
        self.cuts, self.key, self.most_grace = list(cuts), key, most_grace
        self.streams, self.connections, self.said, self.closes = {}, 0, [], []
        self.refuse = None
        self.lock = threading.Lock()
        quiet = logging.getLogger("mock server")  # it complains about connections that it has cut itself
        quiet.setLevel(logging.CRITICAL + 1)
        options = {"compression": None, "subprotocols": ["whisperwire.v1"], "logger": quiet}
        self.server = serve(self.talk, "127.0.0.1", 0, process_request=self.check, **options)
        self.url = "http://127.0.0.1:%d" % self.server.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join(5)

    def check(self, connection, request):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(request.path).query))
        refusal = self.refuse
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            refusal = (401, "unauthorized", None)
        elif "stream" in query and query["stream"] not in self.streams:
            refusal = (404, "not_found", None)
        if refusal:
            status, code, retry_after = refusal
            body = {"error": {"message": "No.", "type": "x", "param": None, "code": code}}
            response = connection.respond(status, json.dumps(body))
            if retry_after:
                response.headers["Retry-After"] = str(retry_after)
            return response

    def talk(self, connection):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(connection.request.path).query))
        with self.lock:
            self.connections += 1
            if "stream" in query:
                stream, after = self.streams[query["stream"]], int(query["after"])
                # As the protocol says: never a part of a sample.
                stream["audio"] = stream["audio"][: len(stream["audio"]) // 2 * 2]
            else:
                stream, after = (
                    {"id": f"s{len(self.streams)}", "audio": b"", "messages": 0, "events": [], "ended": False},
                    0,
                )
                stream["settings"] = {k: v for k, v in query.items() if k != "grace"}
                stream["settings"]["grace"] = min(self.most_grace, float(query.get("grace", 0)))
                self.streams[stream["id"]] = stream
        with contextlib.suppress(ConnectionClosed, OSError):
            connection.send(json.dumps(self.ready(stream)))
            for event in stream["events"][after:]:
                connection.send(json.dumps(event))
            for message in connection:
                if isinstance(message, bytes):
                    self.take(connection, stream, message)
                elif self.obey(connection, stream, json.loads(message)):
                    break
        self.closes.append(connection.protocol.close_code)

    def ready(self, stream):
        whole = len(stream["audio"]) // 2
        received = {"bytes": whole * 2, "samples": whole, "messages": stream["messages"]}
        return {"type": "ready", "version": 1, "stream": stream["id"], "settings": stream["settings"],
                "received": received, "last_seq": len(stream["events"])}  # fmt: skip

    def take(self, connection, stream, message):
        before = len(stream["audio"]) // SECOND
        stream["audio"] += message
        stream["messages"] += 1
        connection.send(json.dumps({"type": "partial", "utterance": before, "stable": "", "tentative": "…"}))
        for second in range(before, len(stream["audio"]) // SECOND):
            self.final(connection, stream, stream["audio"][second * SECOND : (second + 1) * SECOND], second)
        if self.cuts and len(stream["audio"]) >= self.cuts[0]:
            self.cuts.pop(0)
            connection.socket.shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError

    def final(self, connection, stream, audio, second):
        text = f"{zlib.crc32(audio):08x}"
        self.tell(connection, stream, type="final", utterance=second, text=text, start=second, end=second + 1)

    def tell(self, connection, stream, **event):
        event["seq"] = len(stream["events"]) + 1
        stream["events"].append(event)
        connection.send(json.dumps(event))

    def obey(self, connection, stream, message):
        kind = message.pop("type")
        self.said.append(kind)
        if kind == "ping":
            connection.send('{"type":"pong"}')
        elif kind == "configure" and message.get("silence_ms", 500) < 100:
            error = {
                "message": "silence_ms is too small.",
                "type": "x",
                "param": "silence_ms",
                "code": "invalid_request",
            }
            connection.send(json.dumps({"type": "error", "error": error, "fatal": False}))
        elif kind == "configure":
            stream["settings"].update(message)
            connection.send(json.dumps(self.ready(stream)))
        elif kind == "end" and not stream["ended"]:
            stream["ended"] = True
            rest = stream["audio"][len(stream["audio"]) // SECOND * SECOND :]
            self.final(connection, stream, rest, -1)
            self.tell(connection, stream, type="done", duration=len(stream["audio"]) / SECOND)
            return True
        elif kind == "explode":
            error = {"message": "Nothing was heard.", "type": "x", "param": None, "code": "idle_timeout"}
            connection.send(json.dumps({"type": "error", "error": error, "fatal": True}))
            connection.close(4408, "idle_timeout")


def expected(audio=AUDIO):
    pieces = [audio[at : at + SECOND] for at in range(0, len(audio) // SECOND * SECOND, SECOND)]
    return [f"{zlib.crc32(piece):08x}" for piece in [*pieces, audio[len(pieces) * SECOND :]]]


def pieces(audio=AUDIO, seed=1):
    """Of odd and even sizes, some larger than a message may be."""
    at, dice = 0, random.Random(seed)
    while at < len(audio):
        size = dice.choice([1, 7, 640, 3_201, 20_000])
        yield audio[at : at + size]
        at += size


class Threads(unittest.TestCase):
    def test_speak_and_listen(self):
        with MockServer() as server, whisperwire.stream(server.url, language="en", words=True) as live:
            for piece in pieces():
                live.send(piece)
            live.configure(silence_ms=300)
            live.ping()
            live.end()
            events = list(live.events())
            self.assertEqual([e.text for e in events if isinstance(e, whisperwire.Final)], expected())
            self.assertIsInstance(events[-1], whisperwire.Done)
            self.assertEqual(events[0].settings["language"], "en")
            self.assertEqual(events[0].settings["words"], "true")
            self.assertTrue(any(isinstance(e, whisperwire.Pong) for e in events))
            self.assertEqual(list(live.events()), [], "after the end there is nothing, and no waiting")
            with self.assertRaises(whisperwire.WhisperwireError):
                live.send(b"ab")

    def test_two_losses_change_nothing(self):
        with MockServer(cuts=[3 * SECOND + 777, 7 * SECOND]) as server:
            texts, heard = [], []

            def listen(live):
                for event in live.events():
                    heard.append(event.seq)
                    if isinstance(event, whisperwire.Final):
                        texts.append(event.text)

            with whisperwire.stream(server.url, grace=20) as live:
                listener = threading.Thread(target=listen, args=(live,))
                listener.start()
                for piece in pieces():
                    live.send(piece)
                    time.sleep(0.0005)
                live.end()
                listener.join(20)
                self.assertFalse(listener.is_alive())
            self.assertEqual(server.connections, 3)
            self.assertEqual(texts, expected())
            numbers = [seq for seq in heard if seq is not None]
            self.assertEqual(numbers, list(range(1, len(numbers) + 1)), "nothing twice, nothing left out")
            self.assertEqual(next(iter(server.streams.values()))["audio"], AUDIO)

    def test_a_burst_is_mended_too(self):
        with MockServer(cuts=[2 * SECOND, 4 * SECOND, 6 * SECOND]) as server:
            with whisperwire.stream(server.url) as live:
                live.send(AUDIO)
                live.end()
                texts = [e.text for e in live.events() if isinstance(e, whisperwire.Final)]
            self.assertEqual(texts, expected())

    def test_without_grace_a_loss_is_an_error(self):
        with MockServer(cuts=[SECOND]) as server, whisperwire.stream(server.url, grace=0) as live:
            with self.assertRaises(whisperwire.ConnectionLost):
                for piece in pieces():
                    live.send(piece)
                for _ in live.events():
                    pass
            with self.assertRaises(whisperwire.ConnectionLost):
                live.send(b"ab")
            self.assertEqual(server.connections, 1)

    def test_the_server_may_grant_less_grace(self):
        with MockServer(cuts=[SECOND], most_grace=0.0) as server, whisperwire.stream(server.url, grace=20) as live:
            with self.assertRaises(whisperwire.ConnectionLost):
                live.send(AUDIO)
                list(live.events())

    def test_a_stream_that_is_gone_is_an_error(self):
        with MockServer() as server, whisperwire.stream(server.url) as live:
            server.cuts = [SECOND]
            server.refuse = (404, "not_found", None)
            with self.assertRaises(whisperwire.WhisperwireError) as caught:
                live.send(AUDIO)
                list(live.events())
            self.assertEqual((caught.exception.code, caught.exception.status), ("not_found", 404))

    def test_a_house_that_is_full_for_a_moment_is_waited_for(self):
        with MockServer(cuts=[SECOND]) as server, whisperwire.stream(server.url) as live:
            server.refuse = (503, "overloaded", 1)
            threading.Timer(0.5, lambda: setattr(server, "refuse", None)).start()
            live.send(AUDIO)
            live.end()
            texts = [e.text for e in live.events() if isinstance(e, whisperwire.Final)]
            self.assertEqual(texts, expected())

    def test_refusals(self):
        with MockServer(key="right") as server:
            for status, code, retry_after, key in [
                (401, "unauthorized", None, "wrong"),
                (503, "overloaded", 7.0, "right"),
            ]:
                server.refuse = (503, "overloaded", 7)
                with self.assertRaises(whisperwire.WhisperwireError) as caught:
                    whisperwire.stream(server.url, key=key)
                error = caught.exception
                self.assertEqual((error.status, error.code, error.retry_after), (status, code, retry_after))
                self.assertEqual(str(error), "No.")
            server.refuse = None
            with whisperwire.stream(server.url, key="right") as live:
                live.end()
                self.assertIsInstance(list(live.events())[-1], whisperwire.Done)
        with self.assertRaises(whisperwire.ConnectionLost):
            whisperwire.stream(server.url)

    def test_errors_in_a_stream(self):
        with MockServer() as server, whisperwire.stream(server.url) as live:
            live.configure(silence_ms=1)
            problem = next(e for e in live.events() if isinstance(e, whisperwire.Problem))
            self.assertEqual((problem.code, problem.param, problem.fatal), ("invalid_request", "silence_ms", False))
            live._transmit(lambda: live._talk.say("explode"))
            with self.assertRaises(whisperwire.WhisperwireError) as caught:
                list(live.events())
            error = caught.exception
            self.assertEqual((error.code, error.status, str(error)), ("idle_timeout", 408, "Nothing was heard."))
            self.assertEqual(server.connections, 1)

    def test_hanging_up(self):
        with MockServer() as server:
            with whisperwire.stream(server.url) as live:
                live.send(bytes(3_200))
            deadline = time.monotonic() + 5
            while not server.closes and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertEqual(server.closes, [1000], "a proper close tells the server that the stream is over")

    def test_waiting_for_events_has_an_end(self):
        with MockServer() as server, whisperwire.stream(server.url) as live:
            begun = time.monotonic()
            events = list(live.events(timeout=0.2))
            self.assertEqual([type(event) for event in events], [whisperwire.Ready])
            self.assertGreaterEqual(time.monotonic() - begun, 0.19)
            self.assertLess(time.monotonic() - begun, 2)


class Tasks(unittest.IsolatedAsyncioTestCase):
    async def test_two_losses_change_nothing(self):
        with MockServer(cuts=[3 * SECOND + 777, 7 * SECOND]) as server:
            async with whisperwire.astream(server.url, grace=20, keywords=["a,b"]) as live:

                async def speak():
                    for piece in pieces():
                        await live.send(piece)
                        await asyncio.sleep(0.0005)
                    await live.end()

                speaker = asyncio.ensure_future(speak())
                events = [event async for event in live.events()]
                await speaker
            self.assertEqual(server.connections, 3)
            self.assertEqual([e.text for e in events if isinstance(e, whisperwire.Final)], expected())
            numbers = [event.seq for event in events if event.seq is not None]
            self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
            self.assertEqual(next(iter(server.streams.values()))["settings"]["keywords"], ["a,b"])

    async def test_a_burst_is_mended_too(self):
        with MockServer(cuts=[2 * SECOND, 4 * SECOND, 6 * SECOND]) as server:
            async with whisperwire.astream(server.url) as live:
                await live.send(AUDIO)
                await live.end()
                texts = [e.text async for e in live.events() if isinstance(e, whisperwire.Final)]
            self.assertEqual(texts, expected())

    async def test_errors(self):
        with MockServer(key="right") as server:
            with self.assertRaises(whisperwire.WhisperwireError) as caught:
                async with whisperwire.astream(server.url, key="wrong"):
                    pass
            self.assertEqual((caught.exception.code, caught.exception.status), ("unauthorized", 401))
            live = await whisperwire.astream(server.url, key="right", grace=0)
            await live.configure(silence_ms=1)
            await live.ping()
            kinds = [type(event) async for event in live.events(timeout=0.3)]
            self.assertEqual(kinds, [whisperwire.Ready, whisperwire.Problem, whisperwire.Pong])
            await live._transmit(live._talk.say("explode"))
            with self.assertRaises(whisperwire.WhisperwireError) as caught:
                async for _ in live.events():
                    pass
            self.assertEqual((caught.exception.code, caught.exception.status), ("idle_timeout", 408))
            with self.assertRaises(whisperwire.WhisperwireError):
                await live.send(b"ab")
            await live.close()

    async def test_without_grace_a_loss_is_an_error(self):
        with MockServer(cuts=[SECOND]) as server:
            async with whisperwire.astream(server.url, grace=0) as live:
                with self.assertRaises(whisperwire.ConnectionLost):
                    for piece in pieces():
                        await live.send(piece)
                    async for _ in live.events():
                        pass

    async def test_hanging_up(self):
        with MockServer() as server:
            async with whisperwire.astream(server.url) as live:
                await live.send(bytes(3_200))
            for _ in range(500):
                if server.closes:
                    break
                await asyncio.sleep(0.01)
            self.assertEqual(server.closes, [1000])


class Files(unittest.TestCase):
    def test_a_file_paced_and_not(self):
        with MockServer() as server, tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.wav"
            audio = AUDIO[: SECOND + 6_400]
            write_wav(path, audio)
            seen = []
            for realtime in (False, True):
                begun = time.monotonic()
                transcript = whisperwire.transcribe_live(path, server.url, realtime=realtime, on_event=seen.append)
                took = time.monotonic() - begun
                self.assertEqual(transcript.text, " ".join(expected(audio)))
                self.assertAlmostEqual(transcript.duration, 1.2)
                self.assertEqual(took > 1.1, realtime, took)
            self.assertTrue(any(isinstance(event, whisperwire.Partial) for event in seen))

            other = pathlib.Path(folder) / "a.bin"
            other.write_bytes(audio)
            self.assertEqual(whisperwire.transcribe_live(other, server.url).text, " ".join(expected(audio)))
            self.assertEqual(list(server.streams.values())[-1]["settings"]["encoding"], "container")
            with self.assertRaises(ValueError):
                whisperwire.transcribe_live(other, server.url, realtime=True)

    def test_the_command_line(self):
        with MockServer() as server, tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.wav"
            write_wav(path, AUDIO[:SECOND])
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                self.assertEqual(whisperwire.main([str(path), "--url", server.url]), 0)
            self.assertIn(f"[00:00.00] {expected(AUDIO[:SECOND])[0]}\n", out.getvalue())
            server.refuse = (503, "overloaded", 1)
            complaint = io.StringIO()
            with contextlib.redirect_stderr(complaint):
                self.assertEqual(whisperwire.main([str(path), "--url", server.url]), 1)
            self.assertIn("overloaded", complaint.getvalue())


def connection(live):
    """The socket below a stream, once it has one again."""
    deadline = time.monotonic() + 10
    while live._socket is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return live._socket.socket


def abort(connection):
    """Makes the library close the socket, and the kernel answer with RST for it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)


def write_wav(path, audio, rate=16_000):
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(audio)


@unittest.skipUnless(os.environ.get("WHISPERWIRE_TEST_URL"), "WHISPERWIRE_TEST_URL names no server")
class RealServer(unittest.TestCase):
    """Against a server that somebody started; WHISPERWIRE_TEST_WAV may name a recording (16-bit WAV)."""

    @classmethod
    def setUpClass(cls):
        cls.url = os.environ["WHISPERWIRE_TEST_URL"]
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.path = os.environ.get("WHISPERWIRE_TEST_WAV")
        if not cls.path:
            cls.path = os.path.join(cls.folder.name, "noise.wav")
            write_wav(cls.path, loud_and_quiet())

    def test_account_and_order(self):
        seen = []
        transcript = whisperwire.transcribe_live(self.path, self.url, on_event=seen.append, words=True)
        account = transcript.done.account
        self.assertGreater(account.received, 0)
        self.assertEqual(account.received, account.decoded + account.silence + account.lost)
        self.assertAlmostEqual(transcript.duration, account.received / 16_000, delta=0.01)
        numbers = [event.seq for event in seen if event.seq is not None]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        self.assertFalse([event for event in seen if isinstance(event, (whisperwire.Unknown, whisperwire.Problem))])
        for final in transcript.segments:
            self.assertEqual(final.text, final.text.strip())
            self.assertIsNotNone(final.words)

    def test_two_losses_change_nothing(self):
        whole = whisperwire.transcribe_live(self.path, self.url)
        with wave.open(self.path, "rb") as reader:
            rate, channels = reader.getframerate(), reader.getnchannels()
            audio = reader.readframes(reader.getnframes())
        chunks = [audio[at : at + 1_601] for at in range(0, len(audio), 1_601)]
        broken = whisperwire.Transcript()
        with whisperwire.stream(self.url, sample_rate=rate, channels=channels, grace=10) as live:
            for number, chunk in enumerate(chunks):
                if number == len(chunks) // 3:
                    connection(live).shutdown(socket.SHUT_RDWR)  # as when a process is killed: FIN
                if number == 2 * len(chunks) // 3:
                    abort(connection(live))  # as when a machine forgets the connection: RST
                live.send(chunk)
                time.sleep(0.01)  # some audio comes between the losses, however fast the machine
                for event in live.events(timeout=0):
                    broken.add(event)
            live.end()
            for event in live.events():
                broken.add(event)
        self.assertEqual(broken.text, whole.text)
        self.assertEqual(broken.duration, whole.duration)

    def test_both_ways_say_the_same(self):
        async def listen():
            async with whisperwire.astream(self.url, encoding="container") as live:
                await live.send(pathlib.Path(self.path).read_bytes())
                await live.end()
                return " ".join([e.text async for e in live.events() if isinstance(e, whisperwire.Final)])

        self.assertEqual(asyncio.run(listen()), whisperwire.transcribe_live(self.path, self.url).text)

    def test_settings_and_problems(self):
        with whisperwire.stream(self.url, keywords=["quay, the", "Skerryvore"], prompt="x" * 3_000) as live:
            live.configure(silence_ms=1)
            live.ping()
            live.flush()
            events = []
            for event in live.events(timeout=10):
                events.append(event)
                if isinstance(event, whisperwire.Pong):
                    break
            problems = [event for event in events if isinstance(event, whisperwire.Problem)]
            self.assertEqual([(p.code, p.param) for p in problems], [("invalid_request", "silence_ms")])
            readies = [event for event in events if isinstance(event, whisperwire.Ready)]
            self.assertEqual(readies[-1].settings["keywords"], ["quay, the", "Skerryvore"])
        with self.assertRaises(whisperwire.WhisperwireError) as caught:
            whisperwire.stream(self.url, silence_ms=1)
        self.assertEqual((caught.exception.status, caught.exception.code), (400, "invalid_request"))
        self.assertEqual(caught.exception.param, "silence_ms")


def loud_and_quiet():
    """Four seconds of noise between silences: enough to be worth a word to an engine that does not listen closely."""
    dice, samples = random.Random(2), []
    for _ in range(2):
        samples += [0] * 16_000
        samples += [dice.randint(-9_000, 9_000) for _ in range(32_000)]
    return struct.pack(f"<{len(samples)}h", *samples)


if __name__ == "__main__":
    unittest.main()
