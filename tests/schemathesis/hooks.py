"""What random data cannot be: audio. Loaded by schemathesis because `schemathesis.toml` names it."""

import base64
import os
import struct

import schemathesis
from hypothesis import strategies as st


def recording(count):
    """So many samples of µ-law, at 8,000 per second: two parts of a tone, loud enough for words, and one of silence.

    Every byte of it is a letter of ASCII, because schemathesis can judge texts and cannot judge bytes.
    """
    samples = bytes(0x00 if 3 * n < 2 * count and n // 8 % 2 else 0x7F for n in range(count))
    form = struct.pack("<HHIIHHH", 7, 1, 8_000, 8_000, 1, 8, 0)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", count) + samples
    return (b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks).decode("ascii")


RECORDINGS = [recording(8_000), recording(2_304), recording(24_064)]

NO_NUL = r"^[^\u0000]*$"

# A file of a form, and the body of a stream. Where a case means to be wrong, schemathesis puts other things there.
schemathesis.openapi.format("binary", st.sampled_from(RECORDINGS))


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """What the document cannot say about the scripted engine and about audio."""
    # This server was given a key, so that none is no choice.
    raw_schema["security"] = [needed for needed in raw_schema["security"] if needed]
    schemas = raw_schema["components"]["schemas"]
    # No text that is made up is a recording.
    part = next(part for part in schemas["ChatPart"]["oneOf"] if "recording" in part["title"])
    part["properties"]["input_audio"]["properties"]["data"]["format"] = "recording"
    # The scripted engine forgives combinations that a real one refuses: clients' own test suites post them.
    del schemas["ChatRequest"]["properties"]["n"]
    # In a form and in a query everything is a text, a text alone is a list of one, and empty ones do not count: there
    # is hardly a list of texts that is wrong, so each is taken for one text. Our own tests send lists.
    fields = schemas["TranscriptionForm"]["properties"]
    for name in ("languages[]", "keywords[]", "known_speaker_names[]"):
        fields[name] = {"type": "string", "pattern": NO_NUL}
    fields["known_speaker_references[]"] = {"type": "string"}
    for name in ("Setting_languages", "Setting_keywords"):
        raw_schema["components"]["parameters"][name]["schema"] = {"type": "string", "pattern": NO_NUL}
    # A server that tests make requests with makes none to strangers; an empty address counts as absent.
    receiver = os.environ["RECEIVER"]
    fields["webhook_url"] = {"enum": [receiver, ""]}
    schemas["WebhookRequest"]["properties"]["url"] = {"enum": [receiver]}
    submitted = raw_schema["paths"]["/v1/jobs"]["post"]["responses"]["202"]
    submitted["links"]["webhook"]["requestBody"]["url"] = receiver
    # That everything in a form is a text, schemathesis does not see behind a reference.
    for name in ("JobForm", "UploadForm"):
        own = schemas[name]["properties"]
        schemas[name]["properties"] = {field: fields.get(field, of) for field, of in own.items() if "$ref" in of} | {
            field: of for field, of in own.items() if "$ref" not in of
        }


schemathesis.openapi.format("recording", st.just(base64.b64encode(RECORDINGS[1].encode()).decode()))
