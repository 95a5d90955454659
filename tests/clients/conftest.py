"""Writes down everything that goes over the wire while the tests run, for `validate.py`.

The taps sit on the network libraries below the `openai` package, so that the package is judged as it is and no test
has to say that it is recorded. A line of the recording is one JSON body or one event, the kind it should be (a
definition in `protocol/schemas`), and the test it comes from. Without `WHISPERWIRE_RECORDING` nothing is written.

Not recorded: requests that were refused, because a test that asks for nonsense means to; and events of a client
whose `event_id` begins with `wrong`, for the same reason.
"""

import json
import os
import re
import threading

import httpx2
import pytest
import websockets.asyncio.connection
import websockets.sync.connection

# Its assertions say as much as those of the tests.
pytest.register_assert_rewrite("conversation")

BATCH, REALTIME = "openai-batch.schema.json#/$defs/", "openai-realtime.schema.json#/$defs/"

# What a request and its answer are: the method, the path behind /v1, the body asked, the body or event answered.
BODIES = [
    ("POST", "/audio/transcriptions", None, BATCH + "Transcription", BATCH + "TranscriptEvent"),
    ("POST", "/audio/translations", None, BATCH + "Translation", BATCH + "TranscriptEvent"),
    (
        "POST", "/chat/completions",
        BATCH + "ChatCompletionRequest", BATCH + "ChatCompletion", BATCH + "ChatCompletionEvent",
    ),
    ("GET", "/models", None, BATCH + "ModelList", None),
    ("GET", "/models/.+", None, BATCH + "Model", None),
    ("DELETE", "/models/.+", None, BATCH + "ModelDeleted", None),
    (
        "POST", "/realtime/client_secrets",
        REALTIME + "ClientSecretRequest", REALTIME + "ClientSecretResponse", None,
    ),
    (
        "POST", "/realtime/transcription_sessions",
        REALTIME + "TranscriptionSessionRequest", REALTIME + "TranscriptionSessionResponse", None,
    ),
]


class Recording:
    """The file, and which test is running."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8") if path else None
        self.lock = threading.Lock()
        self.test = None

    def write(self, schema, text):
        if self.file is None:
            return
        try:
            body = {"body": json.loads(text)}
        except ValueError:
            body = {"unreadable": text if isinstance(text, str) else text.decode(errors="replace")}
        with self.lock:
            self.file.write(json.dumps({"test": self.test, "schema": schema} | body) + "\n")
            self.file.flush()

    def http(self, request, response, answer, whole):
        """A request, and as much of its answer as the client read."""
        path = re.sub(r"^/v1", "", request.url.path)
        known = [row for row in BODIES if row[0] == request.method and re.fullmatch(row[1], path)]
        asked, body, event = known[0][2:] if known else (None, None, None)
        kind = response.headers.get("content-type", "")
        if response.status_code >= 400:
            return self.write(BATCH + "Error", answer)
        # The package names the type of a body even where it sends none.
        if request.headers.get("content-type", "").startswith("application/json") and request.content:
            self.write(asked, request.content)
        if kind.startswith("text/event-stream"):
            for block in answer.decode().split("\n\n")[:-1]:
                data = [line.removeprefix("data:").strip() for line in block.splitlines() if line.startswith("data:")]
                if data and data != ["[DONE]"]:
                    self.write(event, "\n".join(data))
        elif kind.startswith("application/json") and whole:
            self.write(body, answer)

    def message(self, connection, side, message):
        """A message of a Realtime connection."""
        if not connection.request.path.startswith("/v1/realtime"):
            return
        asked_for = connection.request.headers.get_all("Sec-WebSocket-Protocol")
        beta = "OpenAI-Beta" in connection.request.headers or "openai-beta.realtime-v1" in ",".join(asked_for)
        if side == "Client" and re.search(r'"event_id":\s*"wrong', message):
            return
        self.write(f"{REALTIME}{side}Event{'Beta' if beta else 'Ga'}", message)


class Tap(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Passes an answer on as it comes, and hands it over once it is closed."""

    def __init__(self, stream, done):
        self.stream, self.done, self.seen, self.whole = stream, done, bytearray(), False

    def __iter__(self):
        for chunk in self.stream:
            self.seen += chunk
            yield chunk
        self.whole = True

    async def __aiter__(self):
        async for chunk in self.stream:
            self.seen += chunk
            yield chunk
        self.whole = True

    def close(self):
        self.stream.close()
        self.hand_over()

    async def aclose(self):
        await self.stream.aclose()
        self.hand_over()

    def hand_over(self):
        done, self.done = self.done, None
        if done:
            done(bytes(self.seen), self.whole)


def tap_http(patch, recording):
    handle, handle_async = httpx2.HTTPTransport.handle_request, httpx2.AsyncHTTPTransport.handle_async_request

    def tapped(request, response):
        response.stream = Tap(response.stream, lambda *seen: recording.http(request, response, *seen))
        return response

    async def handle_async_request(self, request):
        return tapped(request, await handle_async(self, request))

    patch.setattr(httpx2.HTTPTransport, "handle_request", lambda self, request: tapped(request, handle(self, request)))
    patch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle_async_request)


def tap_websockets(patch, recording):
    sync, asynchronous = websockets.sync.connection.Connection, websockets.asyncio.connection.Connection
    recv, send, recv_async, send_async = sync.recv, sync.send, asynchronous.recv, asynchronous.send

    def heard(self, *arguments, **options):
        message = recv(self, *arguments, **options)
        recording.message(self, "Server", message)
        return message

    def said(self, message, *arguments, **options):
        recording.message(self, "Client", message)
        return send(self, message, *arguments, **options)

    async def heard_async(self, *arguments, **options):
        message = await recv_async(self, *arguments, **options)
        recording.message(self, "Server", message)
        return message

    async def said_async(self, message, *arguments, **options):
        recording.message(self, "Client", message)
        return await send_async(self, message, *arguments, **options)

    patch.setattr(sync, "recv", heard)
    patch.setattr(sync, "send", said)
    patch.setattr(asynchronous, "recv", heard_async)
    patch.setattr(asynchronous, "send", said_async)


@pytest.fixture(scope="session")
def wire():
    recording = Recording(os.environ.get("WHISPERWIRE_RECORDING"))
    with pytest.MonkeyPatch.context() as patch:
        if recording.file:
            tap_http(patch, recording)
            tap_websockets(patch, recording)
        yield recording
    if recording.file:
        recording.file.close()


@pytest.fixture(autouse=True)
def name_of_the_test(wire, request):
    wire.test = request.node.name
