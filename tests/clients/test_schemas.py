"""The schemas of `protocol/schemas` take what the server answers and refuse what it must not answer."""

import copy
import json
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

import validate
from validate import SCHEMAS, all_wanted, check, documents, fault_of

BATCH, REALTIME = "openai-batch.schema.json#/$defs/", "openai-realtime.schema.json#/$defs/"
FIXTURES = {
    "error": "Error",
    "model": "Model",
    "models": "ModelList",
    "stream_delta": "TranscriptEvent",
    "stream_done": "TranscriptEvent",
    "stream_segment": "TranscriptEvent",
    "transcription": "Transcription",
    "transcription_gaps": "Transcription",
    "transcription_tokens": "Transcription",
    "transcription_verbose": "Transcription",
    "translation": "Translation",
    "translation_verbose": "Translation",
}


def fixture(name):
    return json.loads((SCHEMAS.parent / "fixtures" / f"{name}.json").read_text())


def session(shape="Ga"):
    turns = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
    always = {"id": "sess_1", "object": "realtime.transcription_session", "expires_at": 1742188264}
    if shape == "Beta":
        heard = {"model": "gpt-4o-transcribe", "prompt": "", "language": ""}
        return always | {
            "modalities": ["audio", "text"], "input_audio_format": "pcm16", "input_audio_transcription": heard,
            "turn_detection": turns, "input_audio_noise_reduction": None, "include": [], "client_secret": None,
        }
    heard = {"model": "gpt-4o-transcribe", "language": None, "prompt": ""}
    pcm = {"type": "audio/pcm", "rate": 24000}
    audio = {"input": {"format": pcm, "transcription": heard, "noise_reduction": None, "turn_detection": turns}}
    return always | {"type": "transcription", "include": None, "audio": audio}


def event(kind, **fields):
    return {"type": kind, "event_id": "event_1"} | fields


COMPLETED = event(
    "conversation.item.input_audio_transcription.completed", item_id="item_1", content_index=0, transcript="Hey.",
    logprobs=None, languages=[{"code": "en"}],
    usage={"type": "tokens", "total_tokens": 22, "input_tokens": 13, "output_tokens": 9,
           "input_token_details": {"text_tokens": 0, "audio_tokens": 13}},
)
CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "whisper-1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hey.", "refusal": None}, "logprobs": None,
                 "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
SECRET = {"value": "ek_1", "expires_at": 1742188264, "session": session()}
LENT = session("Beta") | {"client_secret": {"value": "ek_1", "expires_at": 1742188264}}
ITEM = {"id": "item_1", "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
        "content": [{"type": "input_audio", "transcript": None}]}


def broken(body, path, value=...):
    """A copy with one field changed, or without it."""
    body = copy.deepcopy(body)
    *parents, last = path
    at = body
    for step in parents:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return body


def test_the_schemas_are_schemas():
    for name, schema in documents().items():
        Draft202012Validator.check_schema(schema)
        assert schema["$id"] == name
    defined = {name for schema in documents().values() for name in schema["$defs"]}
    assert {name for name, _ in all_wanted()} <= defined


@pytest.mark.parametrize("name", FIXTURES)
def test_every_fixture_holds(name):
    assert fault_of(BATCH + FIXTURES[name], fixture(name)) is None


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (BATCH + "ChatCompletion", CHAT),
        (REALTIME + "ServerEventGa", event("session.created", session=session())),
        (REALTIME + "ServerEventBeta", event("transcription_session.updated", session=session("Beta"))),
        (REALTIME + "ServerEventGa", COMPLETED),
        (REALTIME + "ServerEventBeta", COMPLETED),
        (REALTIME + "ServerEventGa", event("conversation.item.added", previous_item_id=None, item=ITEM)),
        (REALTIME + "ServerEventBeta", event("conversation.item.created", previous_item_id=None, item=ITEM)),
        (REALTIME + "ClientSecretResponse", SECRET),
        (REALTIME + "TranscriptionSessionResponse", LENT),
        (REALTIME + "ClientEventGa", {"type": "input_audio_buffer.append", "audio": "AAA="}),
        (
            REALTIME + "ClientEventGa",
            {"type": "session.update", "session": {"type": "realtime", "tools": [], "audio": {"output": {}}}},
        ),
    ],
)
def test_what_is_right_is_taken(schema, body):
    assert fault_of(schema, body) is None


OPENAPI = json.loads((SCHEMAS.parent / "openapi.json").read_text(encoding="utf-8"))


def resolve(node):
    while "$ref" in node:
        at = OPENAPI
        for step in node["$ref"].removeprefix("#/").split("/"):
            at = at[step]
        node = at
    return node


def examples():
    """Every example of a JSON body in openapi.json: where it stands, its schema, the body."""
    for path, item in OPENAPI["paths"].items():
        for method, operation in item.items():
            bodies = {status: resolve(response) for status, response in operation["responses"].items()}
            bodies["request"] = operation.get("requestBody", {})
            for where, body in bodies.items():
                media = body.get("content", {}).get("application/json", {})
                found = [media["example"]] if "example" in media else []
                found += [resolve(example)["value"] for example in media.get("examples", {}).values()]
                for number, example in enumerate(found):
                    yield pytest.param(media["schema"], example, id=f"{method} {path} {where} {number}")


@pytest.mark.parametrize(("schema", "example"), list(examples()))
def test_every_example_of_the_routes_holds_its_schema(schema, example):
    validator = Draft202012Validator({"components": OPENAPI["components"], **schema})
    assert [error.message for error in validator.iter_errors(example)] == []


def test_the_routes_answer_what_the_schemas_say():
    """What openapi.json calls by the name of a schema of what the server answers is that schema."""
    same = 0
    for name, schema in OPENAPI["components"]["schemas"].items():
        for document in documents().values():
            if name not in document["$defs"] or "Request" in name or name in TOLD_OTHERWISE:
                continue
            renamed = json.dumps(document["$defs"][name]).replace("openai-batch.schema.json#", "#")
            assert schema == json.loads(renamed.replace("#/$defs/", "#/components/schemas/")), name
            same += 1
    assert same > 25


# Requests are open there; a part of a chat says more; of the two words for a lent session, one is a sum of others.
TOLD_OTHERWISE = {"ExpiresAfter", "ChatPart", "Error", "TranscriptionSessionResponse"}


def test_a_body_with_an_unknown_key_or_without_a_known_one_is_refused():
    verbose = fixture("transcription_verbose")
    for schema, body in [
        ("Transcription", verbose | {"whisperflow": 1}),
        ("Transcription", broken(verbose, ["duration"], "8.47")),
        ("Transcription", broken(verbose, ["segments", 0, "no_speech_prob"])),
        ("Transcription", broken(verbose, ["words", 0, "word"], " The")),
        ("TranscriptEvent", broken(fixture("stream_done"), ["usage"], {"type": "duration", "seconds": 9})),
        ("TranscriptEvent", broken(fixture("stream_delta"), ["delta"], None)),
        ("TranscriptEvent", {"error": "overloaded"}),
        ("Error", broken(fixture("error"), ["error", "param"])),
        ("ModelList", broken(fixture("models"), ["data", 0, "created"], "now")),
        ("ChatCompletion", broken(CHAT, ["choices", 0, "message", "refusal"])),
        ("ChatCompletion", broken(CHAT, ["object"], "chat.completion.chunk")),
        ("ChatCompletionEvent", CHAT),
    ]:
        assert fault_of(BATCH + schema, body), (schema, body)


def test_an_event_of_the_wrong_shape_is_refused():
    for schema, body in [
        ("ServerEventGa", event("transcription_session.updated", session=session("Beta"))),
        ("ServerEventBeta", event("session.updated", session=session())),
        ("ServerEventGa", event("session.updated", session=session("Beta"))),
        ("ServerEventGa", event("conversation.item.created", previous_item_id=None, item=ITEM)),
        ("ServerEventBeta", event("conversation.item.added", previous_item_id=None, item=ITEM)),
        ("ServerEventGa", event("conversation.item.added", previous_item_id=None, item=ITEM | {"role": "assistant"})),
        ("ServerEventGa", event("nobody.knows")),
        ("ServerEventGa", broken(COMPLETED, ["event_id"])),
        ("ServerEventGa", broken(COMPLETED, ["transcript"], None)),
        ("ServerEventGa", broken(COMPLETED, ["usage", "input_tokens"], 1.5)),
        ("ServerEventGa", event("session.created", session=broken(session(), ["audio", "input", "turn_detection"]))),
        ("ServerEventGa", event("error", error={"message": "No."})),
        ("ServerEventGa", event("input_audio_buffer.speech_started", audio_start_ms=-1, item_id="item_1")),
        ("ClientSecretResponse", broken(SECRET, ["value"], "sk-1")),
        ("TranscriptionSessionResponse", session("Beta")),
        ("ClientEventGa", {"type": "session.update", "session": {"type": "transcription", "voice": "alloy"}}),
    ]:
        assert fault_of(REALTIME + schema, body), (schema, body)


def test_a_line_without_a_schema_or_without_json_is_a_fault():
    assert check({"test": "a", "schema": None, "body": {}})
    assert check({"test": "a", "schema": BATCH + "Error", "unreadable": "<html>"})
    assert check({"test": "a", "schema": BATCH + "Error", "body": fixture("error")}) is None


def test_a_recording_is_held_against_the_schemas_and_must_be_complete(tmp_path):
    def verdict(*lines):
        recording = tmp_path / "recording.jsonl"
        recording.write_text("".join(json.dumps({"test": "a test"} | line) + "\n" for line in lines))
        command = [sys.executable, validate.__file__, recording]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout

    right = {"schema": BATCH + "Error", "body": fixture("error")}
    code, said = verdict(right)
    assert code == 1 and "FAULT" not in said and "MISSING Transcription:" in said and "MISSING Error" not in said
    code, said = verdict(right, {"schema": BATCH + "Error", "body": {}}, {"schema": None, "body": {}})
    assert code == 1 and said.count("FAULT a test: ") == 2
