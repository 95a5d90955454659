"""The examples of docs/jobs.md do what they say.

What is written for curl and Python is run as it stands, but for the address of the server; what is written for
PowerShell too, where there is one. Where there is none, every route, method, field and property that it names must
be in `protocol/openapi.json`.
"""

import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import wave
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = json.loads((ROOT / "protocol" / "openapi.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
WRITTEN_FOR = "http://127.0.0.1:8000"
WITHIN = 120
# What the scripted engine says begins so; nothing else that a server answers does.
TRANSCRIPT = re.compile(r"\bToday\b")


def blocks(language):
    """Each block of a language, named after the heading it stands under."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    found = []
    for heading, text in zip(parts[1::2], parts[2::2]):
        for block in re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            found.append(pytest.param(block, id=re.sub(r"\W+", "-", heading.lower())))
    return found


@pytest.fixture
def folder(tmp_path):
    """A folder with a recording in it: two tones and a pause, in which the scripted engine hears words."""
    rate = 16_000
    loud = (int(12_000 * math.sin(2 * math.pi * 220 * n / rate)) if n % (2 * rate) < rate else 0 for n in range(4 * rate))
    with wave.open(str(tmp_path / "meeting.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in loud))
    return tmp_path


def run(command, block, folder):
    server = os.environ["WHISPERWIRE_SCRIPT"]
    assert WRITTEN_FOR in block
    done = subprocess.run(
        [*command, block.replace(WRITTEN_FOR, server)], cwd=folder, capture_output=True, text=True, timeout=WITHIN
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_there_are_examples_of_each_kind_for_each_api():
    for language in ("bash", "powershell", "python"):
        assert len(blocks(language)) == 3


@pytest.mark.parametrize("block", blocks("bash"))
def test_curl(block, folder):
    said = run(["bash", "-euo", "pipefail", "-c"], block, folder)
    assert '"status":"' in said and '"error":{' not in said and TRANSCRIPT.search(said), said


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block, folder):
    said = run([sys.executable, "-c"], block, folder)
    assert "completed" in said and TRANSCRIPT.search(said), said


@pytest.mark.skipif(not shutil.which("pwsh"), reason="there is no PowerShell; what it names is checked below")
@pytest.mark.parametrize("block", blocks("powershell"))
def test_powershell(block, folder):
    stops = "$ErrorActionPreference = 'Stop'\n"
    said = run(["pwsh", "-NoProfile", "-NonInteractive", "-Command"], stops + block, folder)
    assert TRANSCRIPT.search(said), said


@pytest.mark.parametrize("block", blocks("powershell"))
def test_what_powershell_names_is_there(block):
    calls = re.findall(r"(?:\$(\w+) = )?Invoke-RestMethod -Method (\w+) -Uri \"\$server(/[^\"]+)\"( -Form \$form)?", block)
    assert len(calls) == block.count("Invoke-RestMethod")
    fields = set(re.findall(r"[{;] (\w+) = ", re.search(r"\$form = (@\{.+\})", block).group(1)))
    answers = {}
    for variable, method, address, form in calls:
        path, _, query = address.partition("?")
        operation = operation_at(method.lower(), re.sub(r"\$\([^)]+\)", "x", path))
        asked = {parameter["name"] for parameter in map(resolve, operation.get("parameters", []))}
        assert {pair.partition("=")[0] for pair in query.split("&") if pair} <= asked, address
        if form:
            schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
            assert fields <= set(resolve(schema)["properties"]), address
        if variable:
            answers.setdefault(variable, []).extend(answered(operation))
    read = {(variable, name) for variable, name in re.findall(r"\$(\w+)\.(\w+)", block) if variable != "_"}
    assert read, "it looks at what it gets"
    for variable, name in read:
        assert any(name in schema["properties"] for schema in answers[variable]), f"${variable}.{name}"


def operation_at(method, path):
    """The operation of a filled path, or a failure."""
    for template, item in DOCUMENT["paths"].items():
        if method in item and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return item[method]
    pytest.fail(f"openapi.json has no {method} {path}")


def answered(operation):
    """The schemas of what an operation answers when it goes well."""
    responses = [resolve(response) for status, response in operation["responses"].items() if status < "300"]
    bodies = [response.get("content", {}).get("application/json") for response in responses]
    schemas = [resolve(body["schema"]) for body in bodies if body]
    return [resolve(one) for schema in schemas for one in schema.get("oneOf", [schema])]


def resolve(node):
    while "$ref" in node:
        at = DOCUMENT
        for step in node["$ref"].removeprefix("#/").split("/"):
            at = at[step]
        node = at
    return node
