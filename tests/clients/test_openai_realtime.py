"""What an application hears that speaks to the server live, through the Realtime connections of the `openai` package.

Both shapes are judged: `client.realtime` as generally available, and `client.beta.realtime`. `run` starts the
servers. Speech is real and, where it matters that words come while somebody still speaks, sent in real time.
"""

import asyncio
import base64
import difflib
import json
import os
import time

import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_bare

from conversation import (
    BUFFER, CHUNK_MS, ITEM, PATIENCE, TRANSCRIPTION,
    audio, chunks, dial, first_session, is_known, manual, silence, talking,
)
from test_openai_python import MANIFEST, RECORDING, client, spoken, transcribe, words

OTHER = "sentence-08-slt.flac"
LONG = "monologue-no-pause.flac"
MONO_24K = {"type": "audio/pcm", "rate": 24000}
LOGPROBS = "item.input_audio_transcription.logprobs"


@pytest.mark.parametrize("shape", ["ga", "beta"])
def test_a_turn_of_real_speech_in_real_time(shape):
    with talking(shape) as talk:
        first_session(talk)
        talk.configure(turn_detection={"type": "server_vad", "silence_duration_ms": 500})
        talk.speak(audio(RECORDING))
        talk.speak(silence(1.0))
        completed = talk.next(TRANSCRIPTION + "completed")
        item = completed.item_id
        kinds = [event.type for event in talk.of(item) if event.type != TRANSCRIPTION + "delta"]
        made = [ITEM + "created"] if shape == "beta" else [ITEM + "added", ITEM + "done"]
        assert kinds == [
            BUFFER + "speech_started", BUFFER + "speech_stopped", BUFFER + "committed", *made,
            TRANSCRIPTION + "completed",
        ]
        started, stopped, committed = (event for event in talk.of(item) if event.type.startswith(BUFFER))
        sent = 1000 * (MANIFEST[RECORDING]["seconds"] + 1.0)
        assert 0 <= started.audio_start_ms < stopped.audio_end_ms <= sent
        assert committed.previous_item_id is None
        assert words(completed.transcript) == spoken()
        assert words(completed.transcript) == words(transcribe().text)
        assert completed.usage.type in ("tokens", "duration")


def test_words_come_while_somebody_still_speaks():
    with talking() as talk:
        first_session(talk)
        all_said = talk.speak(audio(LONG))
        talk.speak(silence(1.0))
        completed = talk.next(TRANSCRIPTION + "completed")
        kinds = talk.kinds()
        early = kinds[: kinds.index(BUFFER + "speech_stopped")]
        assert TRANSCRIPTION + "delta" in early, kinds
        assert talk.times[early.index(TRANSCRIPTION + "delta")] < all_said
        deltas = [event.delta for event in talk.of(completed.item_id) if event.type == TRANSCRIPTION + "delta"]
        assert all(delta.startswith(" ") for delta in deltas[1:]), "whole words"
        # The bundled model is the smallest there is: of a file, too, it gets four words in five of this one.
        assert alike(completed.transcript, MANIFEST[LONG]["text"]) >= 0.7


def alike(one, other):
    """How much of two texts is the same words in the same order, 0 to 1."""
    return difflib.SequenceMatcher(None, words(one), words(other), autojunk=False).ratio()


@pytest.mark.parametrize("shape", ["ga", "beta"])
def test_async_two_turns_follow_each_other(shape):
    async def listen(connection, events):
        async for event in connection:
            events.append(event)
            if [event.type for event in events].count(TRANSCRIPTION + "completed") == 2:
                return

    async def speak(connection):
        begun = time.monotonic()
        for number, part in enumerate(chunks(audio(RECORDING) + silence(1.0) + audio(OTHER) + silence(1.0))):
            await asyncio.sleep(max(0.0, begun + number * CHUNK_MS / 1000 - time.monotonic()))
            await connection.input_audio_buffer.append(audio=part)

    async def converse():
        events = []
        async with client(kind=openai.AsyncOpenAI) as api, dial(api, shape) as connection:
            await asyncio.wait_for(asyncio.gather(listen(connection, events), speak(connection)), 2 * PATIENCE)
        return events

    events = asyncio.run(converse())
    for event in events:
        assert is_known(event, shape), event
    completed = [event for event in events if event.type == TRANSCRIPTION + "completed"]
    assert [words(event.transcript) for event in completed] == [spoken(), spoken(OTHER)]
    committed = [event for event in events if event.type == BUFFER + "committed"]
    assert [event.item_id for event in committed] == [event.item_id for event in completed]
    assert [event.previous_item_id for event in committed] == [None, committed[0].item_id]


@pytest.mark.parametrize("shape", ["ga", "beta"])
def test_a_client_that_commits_by_itself(shape):
    with talking(shape) as talk:
        first_session(talk)
        manual(talk)
        talk.send(audio(RECORDING))
        assert words(talk.commit().transcript) == spoken()
        talk.send(audio(OTHER))
        assert words(talk.commit().transcript) == spoken(OTHER)
        committed = [event for event in talk.events if event.type == BUFFER + "committed"]
        assert [event.previous_item_id for event in committed] == [None, committed[0].item_id]
        assert not any("speech" in kind for kind in talk.kinds()), "nobody asked for turns to be detected"


def test_what_is_cleared_is_not_heard():
    with talking() as talk:
        manual(talk)
        talk.send(audio(OTHER))
        talk.connection.input_audio_buffer.clear()
        talk.next(BUFFER + "cleared")
        talk.send(audio(RECORDING))
        assert words(talk.commit().transcript) == spoken()


def complaint(talk, code=None):
    """The next error, of a connection that goes on."""
    error = talk.next("error").error
    assert error.type == "invalid_request_error" and error.message
    assert code is None or error.code == code, error
    return error


@pytest.mark.parametrize("shape", ["ga", "beta"])
def test_errors_leave_the_connection_usable(shape):
    with talking(shape) as talk:
        manual(talk)
        talk.connection.input_audio_buffer.commit(event_id="mine-1")
        assert complaint(talk, "input_audio_buffer_commit_empty").event_id == "mine-1"
        talk.send(silence(0.05))
        talk.connection.input_audio_buffer.commit(event_id="mine-2")
        assert complaint(talk, "input_audio_buffer_commit_empty").event_id == "mine-2"
        talk.connection.input_audio_buffer.clear()
        talk.next(BUFFER + "cleared")
        talk.connection.send({"type": "input_audio_buffer.dance", "event_id": "wrong-1"})
        assert complaint(talk).event_id == "wrong-1"
        talk.connection.response.create(event_id="wrong-2")
        assert complaint(talk).event_id == "wrong-2"
        talk.connection.conversation.item.retrieve(item_id="nobody", event_id="mine-3")
        assert complaint(talk).event_id == "mine-3"
        talk.connection.conversation.item.delete(item_id="nobody", event_id="mine-4")
        assert complaint(talk).event_id == "mine-4"
        talk.connection.send({"type": "input_audio_buffer.append", "audio": "no base64!", "event_id": "wrong-3"})
        assert complaint(talk).event_id == "wrong-3"
        talk.send(audio(RECORDING))
        assert words(talk.commit().transcript) == spoken()


def test_a_session_that_cannot_be_set_is_refused_and_stays_as_it_was():
    with talking() as talk:
        before = first_session(talk)["audio"]["input"]
        for number, setting in enumerate([
            {"turn_detection": {"type": "psychic"}},
            {"turn_detection": {"type": "server_vad", "threshold": 2}},
            {"format": {"type": "audio/mp3"}},
            {"transcription": {"delay": "eternal"}},
        ]):
            session = {"type": "transcription", "audio": {"input": setting}}
            talk.connection.send({"type": "session.update", "event_id": f"wrong-{number}", "session": session})
            error = complaint(talk)
            assert error.event_id == f"wrong-{number}" and error.param.startswith("session.audio.input."), error
        assert talk.configure(noise_reduction=None)["audio"]["input"] == before


def test_items_are_found_and_forgotten():
    with talking() as talk:
        manual(talk)
        talk.send(audio(RECORDING))
        completed = talk.commit()
        talk.connection.conversation.item.retrieve(item_id=completed.item_id)
        item = talk.next(ITEM + "retrieved").item
        assert item.id == completed.item_id and item.content[0].transcript == completed.transcript
        talk.connection.conversation.item.delete(item_id=completed.item_id)
        assert talk.next(ITEM + "deleted").item_id == completed.item_id
        talk.connection.conversation.item.retrieve(item_id=completed.item_id, event_id="gone")
        assert complaint(talk).event_id == "gone"


@pytest.mark.parametrize(
    ("codec", "rate", "format"),
    [
        ("pcm_s16le", 8000, {"type": "audio/pcm", "rate": 8000}),
        ("pcm_s16le", 16000, {"type": "audio/pcm", "rate": 16000}),
        ("pcm_s16le", 44100, {"type": "audio/pcm", "rate": 44100}),
        ("pcm_mulaw", 8000, {"type": "audio/pcmu"}),
        ("pcm_alaw", 8000, {"type": "audio/pcma"}),
        ("pcm_mulaw", 8000, "g711_ulaw"),
        ("pcm_s16le", 24000, "pcm16"),
    ],
)
def test_every_format_has_the_words(codec, rate, format):
    names = {"g711_ulaw": {"type": "audio/pcmu"}, "pcm16": MONO_24K}
    with talking() as talk:
        session = manual(talk, format=format)
        assert session["audio"]["input"]["format"] == (names[format] if isinstance(format, str) else format)
        talk.send(audio(RECORDING, codec, rate), rate * (2 if codec == "pcm_s16le" else 1))
        # A telephone's narrow band costs the smallest model a word now and then.
        assert alike(talk.commit().transcript, MANIFEST[RECORDING]["text"]) >= (0.8 if rate == 8000 else 1)


@pytest.mark.parametrize(("codec", "format"), [("pcm_mulaw", "g711_ulaw"), ("pcm_alaw", "g711_alaw")])
def test_the_telephone_formats_in_the_beta_shape(codec, format):
    with talking("beta") as talk:
        assert manual(talk, input_audio_format=format)["input_audio_format"] == format
        talk.send(audio(RECORDING, codec, 8000), 8000)
        assert alike(talk.commit().transcript, MANIFEST[RECORDING]["text"]) >= 0.8


def test_an_odd_number_of_bytes_is_carried_over():
    with talking() as talk:
        manual(talk)
        data = audio(RECORDING)
        for at in range(0, len(data), 4801):
            talk.connection.input_audio_buffer.append(audio=base64.b64encode(data[at : at + 4801]).decode())
        assert words(talk.commit().transcript) == spoken()


def test_the_session_in_force_is_told_in_full():
    with talking() as talk:
        first = first_session(talk)
        assert first["type"] == "transcription" and first["object"] == "realtime.transcription_session"
        assert first["id"] and first["expires_at"] > time.time()
        assert first["audio"]["input"]["format"] == MONO_24K
        assert first["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        heard = {
            "model": "gpt-4o-transcribe", "language": "en", "languages": ["en", "de"], "keywords": ["report", "day"],
            "prompt": "About a report.", "delay": "low",
        }
        turns = {
            "type": "server_vad", "threshold": 0.6, "prefix_padding_ms": 200, "silence_duration_ms": 350,
            "idle_timeout_ms": 6000,
        }
        session = talk.configure(
            transcription=heard, noise_reduction={"type": "near_field"}, turn_detection=turns, include=[LOGPROBS]
        )
        told = session["audio"]["input"]
        assert {key: told["transcription"][key] for key in heard if key != "model"} == {
            key: value for key, value in heard.items() if key != "model"
        }
        assert told["transcription"]["model"]
        assert {key: told["turn_detection"][key] for key in turns} == turns
        assert told["noise_reduction"] is None, "nothing is done about noise, and the session says so"
        assert session["include"] == [LOGPROBS]
        assert (session["id"], session["expires_at"]) == (first["id"], first["expires_at"])
        # What is absent stays as it is.
        after = talk.configure(transcription={"prompt": "Another."})["audio"]["input"]
        assert after["transcription"] == told["transcription"] | {"prompt": "Another."}
        assert after["turn_detection"] == told["turn_detection"]


def test_the_beta_session_in_force_is_told_in_full():
    with talking("beta") as talk:
        first = first_session(talk)
        assert first["object"] == "realtime.transcription_session" and first["id"]
        heard = {"model": "gpt-4o-transcribe", "prompt": "About a report.", "language": "en"}
        turns = {"type": "server_vad", "threshold": 0.6, "prefix_padding_ms": 200, "silence_duration_ms": 350}
        session = talk.configure(
            input_audio_format="pcm16", input_audio_transcription=heard, turn_detection=turns,
            input_audio_noise_reduction={"type": "near_field"}, include=[LOGPROBS],
        )
        assert session["input_audio_format"] == "pcm16"
        told = session["input_audio_transcription"]
        assert (told["prompt"], told["language"]) == (heard["prompt"], heard["language"])
        assert {key: session["turn_detection"][key] for key in turns} == turns
        assert session["include"] == [LOGPROBS]
        assert session["input_audio_noise_reduction"] is None
        assert (session["id"], session["expires_at"]) == (first["id"], first["expires_at"])


def test_log_probabilities_come_when_asked_for():
    with talking() as talk:
        manual(talk, include=[LOGPROBS], transcription={"model": "gpt-4o-transcribe", "language": "en"})
        talk.send(audio(RECORDING))
        completed = talk.commit()
        assert completed.logprobs and all(entry.logprob <= 0.0 for entry in completed.logprobs)
        assert words("".join(entry.token for entry in completed.logprobs)) == spoken()
        manual(talk, include=[])
        talk.send(audio(RECORDING))
        assert talk.commit().logprobs is None


def test_a_semantic_turn_holds_longer_and_ends():
    with talking() as talk:
        session = talk.configure(turn_detection={"type": "semantic_vad", "eagerness": "high"})
        turns = session["audio"]["input"]["turn_detection"]
        assert (turns["type"], turns["eagerness"]) == ("semantic_vad", "high")
        talk.send(audio(RECORDING) + silence(3.0))
        assert words(talk.next(TRANSCRIPTION + "completed").transcript) == spoken()


def test_nobody_speaks_for_as_long_as_was_asked_for():
    with talking() as talk:
        talk.configure(turn_detection={"type": "server_vad", "idle_timeout_ms": 5000})
        talk.send(silence(6.0))
        timeout = talk.next(BUFFER + "timeout_triggered")
        assert timeout.item_id
        assert timeout.audio_end_ms - timeout.audio_start_ms >= 5000
        talk.send(audio(RECORDING) + silence(1.5))
        while not (completed := talk.next(TRANSCRIPTION + "completed")).transcript:
            pass
        assert words(completed.transcript) == spoken()
        assert completed.item_id != timeout.item_id


@pytest.mark.parametrize("query", [{"model": "gpt-4o-transcribe"}, {"model": "whisper-1", "intent": "transcription"}])
def test_a_model_that_transcribes_is_a_transcription_session(query):
    with talking(server="SCRIPT", query=query) as talk:
        assert first_session(talk)["type"] == "transcription"


@pytest.mark.parametrize("shape", ["ga", "beta"])
def test_a_wrong_key_is_refused_before_the_connection(shape):
    with pytest.raises(InvalidStatus) as caught, talking(shape, "KEYED", "a-wrong-key"):
        pass
    refused(caught)
    with talking(shape, "KEYED", os.environ["WHISPERWIRE_KEY"]) as talk:
        first_session(talk)


def refused(caught):
    assert caught.value.response.status_code == 401
    error = json.loads(caught.value.response.body)["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == "invalid_api_key"


@pytest.mark.parametrize("shape", ["ga", "beta"])
def test_a_key_in_a_subprotocol_as_browsers_send_it(shape):
    # A browser cannot send headers, and gives up unless one of its subprotocols is chosen.
    beta = ["openai-beta.realtime-v1"] if shape == "beta" else []
    address = os.environ["WHISPERWIRE_KEYED"].replace("http", "ws", 1) + "/v1/realtime?intent=transcription"
    for key in (os.environ["WHISPERWIRE_KEY"], lend().value):
        asked_for = ["realtime", f"openai-insecure-api-key.{key}", *beta]
        with connect_bare(address, subprotocols=asked_for) as connection:
            assert connection.subprotocol == "realtime"
            created = "transcription_session.created" if beta else "session.created"
            assert json.loads(connection.recv(PATIENCE))["type"] == created
    with pytest.raises(InvalidStatus) as caught:
        connect_bare(address, subprotocols=["realtime", "openai-insecure-api-key.wrong", *beta])
    refused(caught)


def lend(**request):
    """A key for a short time, as a server of an application gets one for a browser."""
    with client("KEYED", os.environ["WHISPERWIRE_KEY"]) as api:
        return api.realtime.client_secrets.create(**request)


def test_a_lent_key_opens_the_session_it_is_bound_to():
    heard = {"model": "gpt-4o-transcribe", "language": "de", "prompt": "Ein Bericht."}
    session = {"type": "transcription", "include": [LOGPROBS], "audio": {"input": {
        "format": {"type": "audio/pcmu"}, "transcription": heard, "turn_detection": None,
    }}}
    begun = int(time.time())
    secret = lend(session=session, expires_after={"anchor": "created_at", "seconds": 600})
    assert secret.value.startswith("ek_")
    assert begun + 600 <= secret.expires_at <= int(time.time()) + 600
    assert secret.session.type == "transcription" and secret.session.audio.input.transcription.language == "de"
    with talking("ga", "KEYED", secret.value) as talk:
        told = first_session(talk)
        assert told["include"] == [LOGPROBS]
        assert told["audio"]["input"]["format"] == {"type": "audio/pcmu"}
        assert told["audio"]["input"]["transcription"]["language"] == "de"
        assert told["audio"]["input"]["transcription"]["prompt"] == "Ein Bericht."
        assert told["audio"]["input"]["turn_detection"] is None


def test_a_lent_key_opens_nothing_else():
    secret = lend()
    with client("KEYED", secret.value) as api:
        for forbidden in (api.models.list, api.realtime.client_secrets.create):
            with pytest.raises((openai.AuthenticationError, openai.PermissionDeniedError)):
                forbidden()


def test_a_key_lent_in_the_beta_shape():
    with client("KEYED", os.environ["WHISPERWIRE_KEY"]) as api:
        session = api.beta.realtime.transcription_sessions.create(
            input_audio_format="g711_ulaw",
            input_audio_transcription={"model": "gpt-4o-transcribe", "language": "de", "prompt": "Ein Bericht."},
            turn_detection={"type": "server_vad", "silence_duration_ms": 700},
            client_secret={"expires_at": {"anchor": "created_at", "seconds": 600}},
        )
    assert session.client_secret.value.startswith("ek_") and session.client_secret.expires_at > time.time()
    assert session.input_audio_format == "g711_ulaw" and session.turn_detection.silence_duration_ms == 700
    with talking("beta", "KEYED", session.client_secret.value) as talk:
        told = first_session(talk)
        assert told["input_audio_format"] == "g711_ulaw"
        assert told["input_audio_transcription"]["language"] == "de"
        assert told["turn_detection"]["silence_duration_ms"] == 700


def test_only_who_has_a_key_can_lend_one():
    with client("KEYED", "a-wrong-key") as api:
        with pytest.raises(openai.AuthenticationError):
            api.realtime.client_secrets.create()
        with pytest.raises(openai.AuthenticationError):
            api.beta.realtime.transcription_sessions.create()
    for seconds in (9, 7201):
        with pytest.raises(openai.BadRequestError):
            lend(expires_after={"anchor": "created_at", "seconds": seconds})


def test_a_lent_key_expires():
    secret = lend(expires_after={"anchor": "created_at", "seconds": 10})
    with talking("ga", "KEYED", secret.value) as talk:
        first_session(talk)
        time.sleep(max(0.0, secret.expires_at + 1.1 - time.time()))
        with pytest.raises(InvalidStatus) as caught, talking("ga", "KEYED", secret.value):
            pass
        refused(caught)
        # Who came in time stays.
        manual(talk)
