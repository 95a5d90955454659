#!/usr/bin/env python3
"""Holds a recorded run against the schemas: every body and every event must be what its schema says.

    validate.py RECORDING

A recording is what `conftest.py` writes. It must also be complete: a run in which some body or event never occurred
has shown nothing about it.
"""

import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource

SCHEMAS = Path(__file__).resolve().parent.parent.parent / "protocol" / "schemas"

TRANSCRIPTION = "conversation.item.input_audio_transcription."
EITHER_SHAPE = [
    "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed",
    TRANSCRIPTION + "delta", TRANSCRIPTION + "completed", "error",
]
# What the run must have seen: bodies by their definition, events by their type as well.
WANTED = {
    "Transcription": [None],
    "Translation": [None],
    "TranscriptEvent": ["transcript.text.delta", "transcript.text.done"],
    "Error": [None],
    "Model": [None],
    "ModelList": [None],
    "ModelDeleted": [None],
    "ChatCompletionRequest": [None],
    "ChatCompletion": [None],
    "ChatCompletionEvent": [None],
    "ClientSecretRequest": [None],
    "ClientSecretResponse": [None],
    "TranscriptionSessionRequest": [None],
    "TranscriptionSessionResponse": [None],
    "ServerEventGa": [
        "session.created", "session.updated", *EITHER_SHAPE, "input_audio_buffer.cleared",
        "input_audio_buffer.timeout_triggered", "conversation.item.added", "conversation.item.done",
        "conversation.item.retrieved", "conversation.item.deleted",
    ],
    "ServerEventBeta": [
        "transcription_session.created", "transcription_session.updated", *EITHER_SHAPE, "conversation.item.created",
    ],
    "ClientEventGa": [
        "session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear",
        "conversation.item.retrieve", "conversation.item.delete",
    ],
    "ClientEventBeta": ["transcription_session.update", "input_audio_buffer.append", "input_audio_buffer.commit"],
}


def main():
    faults, seen = [], Counter()
    with open(sys.argv[1], encoding="utf-8") as recording:
        for line in map(json.loads, recording):
            if fault := check(line):
                faults.append(f"{line['test']}: {fault}")
            elif line["schema"]:
                seen[kind_of(line)] += 1
    missing = [wanted for wanted in all_wanted() if not seen[wanted]]
    for name, kind in sorted(seen, key=str):
        print(f"{seen[name, kind]:6} {name}{f' {kind}' if kind else ''}")
    for fault in faults[:50]:
        print(f"FAULT {fault}")
    for name, kind in missing:
        print(f"MISSING {name}{f' {kind}' if kind else ''}: the run has not shown it")
    print(f"{sum(seen.values())} bodies and events hold, {len(faults)} do not, {len(missing)} are missing")
    sys.exit(1 if faults or missing else 0)


def all_wanted():
    return [(name, kind) for name, kinds in WANTED.items() for kind in kinds]


def kind_of(line):
    name = line["schema"].rpartition("/")[2]
    return name, line["body"].get("type") if "Event" in name else None


def check(line):
    """What is wrong with a line of a recording, or nothing."""
    if "body" not in line:
        return f"no JSON: {line['unreadable'][:200]!r}"
    if line["schema"] is None:
        return f"there is no schema for it: {json.dumps(line['body'])[:200]}"
    return fault_of(line["schema"], line["body"])


def fault_of(schema, body):
    """What is wrong with a body by its schema, or nothing."""
    error = best_match(validator(schema).iter_errors(body))
    if error is None:
        return None
    if isinstance(body, dict) and (alternative := by_type(schema, body)):
        error = best_match(validator(alternative).iter_errors(body)) or error
    return f"{schema}: {error.json_path}: {error.message[:300]} in {json.dumps(body)[:600]}"


def by_type(schema, body):
    """Of alternatives, the one for the body's own type, whose complaint says more than that none fits."""
    file, _, name = schema.partition("#/$defs/")
    for alternative in documents()[file]["$defs"][name].get("oneOf", []):
        definition = alternative.get("$ref", "").removeprefix("#/$defs/")
        properties = documents()[file]["$defs"].get(definition, {}).get("properties", {})
        if "type" in body and properties.get("type") == {"const": body["type"]}:
            return f"{file}#/$defs/{definition}"
    return None


@cache
def documents():
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(SCHEMAS.glob("*.json"))}


@cache
def validator(schema):
    registry = Registry().with_resources((name, Resource.from_contents(one)) for name, one in documents().items())
    return Draft202012Validator({"$ref": schema}, registry=registry)


if __name__ == "__main__":
    main()
