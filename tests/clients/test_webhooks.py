"""What a receiver of webhooks sees, with the `openai` package as its judge, and the examples of docs/webhooks.md.

The first half needs no server: signatures like those in `webhooks.json`, which our own tests say the server makes,
and the receivers of the page. The second half submits jobs, with the examples of the page, to servers that `run`
starts.
"""

import base64
import hashlib
import hmac
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "webhooks.md").read_text()
VECTORS = json.loads((Path(__file__).parent / "webhooks.json").read_text())["deliveries"]
RECORDING = ROOT / "tests" / "audio" / "sentence-04-slt.flac"
SECRET = "whsec_" + base64.b64encode(b"only of this test, and not short").decode()
PATIENCE = 60  # seconds
FOR_EVER = 10**12
SUBMITTERS = ["submit.sh", "submit.py"]
WEBHOOKS = openai.OpenAI(api_key="none", webhook_secret=SECRET).webhooks


def example(name, *replacements):
    """An example of the page, by the name in its first line, with its addresses made those of the test."""
    blocks = re.findall(r"```\w+\n(# ([\w.]+)[^\n]*\n.*?)```", PAGE, re.DOTALL)
    [text] = [text for text, called in blocks if called == name]
    for written, meant in replacements:
        assert written in text, f"{name} has no {written}"
        text = text.replace(written, str(meant))
    return text


def command(name, text):
    return [sys.executable, "-c", text] if name.endswith(".py") else ["bash", "-euc", text]


def signed(body, id="evt_1", at=None, secret=SECRET):
    """The headers of a delivery, made by Python's own hmac."""
    at = int(time.time()) if at is None else at
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    mac = hmac.new(key, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    signature = "v1," + base64.b64encode(mac).decode()
    return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": signature}


def post(url, body, headers):
    """The status of an answer."""
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"} | headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


# ---- without a server -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_the_package_accepts_the_signatures_of_the_server_and_no_others(sent):
    def verify(body=sent["body"], secret=sent["secret"], **changed):
        headers = {"webhook-id": sent["id"], "webhook-timestamp": str(sent["timestamp"])}
        headers |= {"webhook-signature": sent["signature"]} | {f"webhook-{name}": value for name, value in changed.items()}
        WEBHOOKS.verify_signature(body, headers, secret=secret, tolerance=FOR_EVER)

    verify()
    verify(body=sent["body"].encode())
    for tampered in [
        {"body": sent["body"] + " "},
        {"timestamp": str(sent["timestamp"] + 1)},
        {"id": sent["id"] + "0"},
        {"secret": "whsec_" + base64.b64encode(b"another").decode()},
        {"secret": sent["secret"] + "0" if not sent["secret"].startswith("whsec_") else "another"},
        {"signature": "v1,"},
    ]:
        with pytest.raises(openai.InvalidWebhookSignatureError):
            verify(**tampered)


@contextmanager
def receiver_of_the_page():
    """The example as a process: its address, and the lines it prints."""
    text = example("receiver.py", ("9000", "0"))
    process = subprocess.Popen(
        command("receiver.py", text), env=os.environ | {"WEBHOOK_SECRET": SECRET}, stdout=subprocess.PIPE, text=True
    )
    lines = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line.strip()) for line in process.stdout], daemon=True).start()
    try:
        yield lines.get(timeout=PATIENCE).removeprefix("listening on ") + "/done", lines
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def test_the_receiver_of_the_page_takes_what_is_signed_and_takes_it_once():
    body = json.dumps({"id": "evt_1", "type": "transcription.completed", "data": {"id": "job_1"}}).encode()
    with receiver_of_the_page() as (url, lines):
        assert post(url, body, {}) == 400
        assert post(url, body + b" ", signed(body)) == 400
        assert post(url, b"\xff", signed(b"\xff")) == 400
        assert post(url, body, signed(body, at=int(time.time()) - 400)) == 400
        assert post(url, body, signed(body, secret="another")) == 400
        assert post(url, body, signed(body) | {"webhook-id": "evt_2"}) == 400
        assert lines.empty()
        assert post(url, body, signed(body)) == 204
        assert post(url, body, signed(body)) == 204
        assert lines.get(timeout=PATIENCE) == "transcription.completed job_1"
        assert lines.empty()


@pytest.mark.parametrize("secret", [SECRET, "plain text with 'quotes'"])
def test_the_shell_of_the_page_judges_as_the_package_does(tmp_path, secret):
    body = '{"text":"Grüße, 世界"}'.encode()
    (tmp_path / "body.json").write_bytes(body)
    sent = signed(body, secret=secret)

    def judge(**changed):
        values = {name: sent[f"webhook-{name}"] for name in ["id", "timestamp", "signature"]} | changed
        run = subprocess.run(
            command("verify.sh", example("verify.sh")), cwd=tmp_path, env=os.environ | {"WEBHOOK_SECRET": secret} | values
        )
        return run.returncode == 0

    assert judge()
    assert not judge(id="evt_2")
    assert not judge(timestamp="1")
    assert not judge(WEBHOOK_SECRET="another")


# ---- with a server --------------------------------------------------------------------------------------------


class Inbox:
    """A receiver that keeps all it gets, and answers with these statuses in turn, then with 204."""

    def __init__(self, *statuses):
        self.statuses, self.arrived = list(statuses), queue.Queue()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                inbox.arrived.put(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(inbox.statuses.pop(0) if inbox.statuses else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/done"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def next(self):
        return self.arrived.get(timeout=PATIENCE)


def submit(name, to):
    """Runs an example of the page that submits a job: the job's id."""
    text = example(
        name,
        ("http://127.0.0.1:8000", os.environ["WHISPERWIRE_WEBHOOKS"]),
        ("http://127.0.0.1:9000/done", to),
        ("speech.wav", RECORDING),
    )
    known = os.environ | {"WEBHOOK_SECRET": SECRET, "WHISPERWIRE_API_KEY": "none"}
    run = subprocess.run(command(name, text), env=known, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip() if name.endswith(".py") else json.loads(run.stdout)["id"]


@pytest.mark.parametrize("submitter", SUBMITTERS)
def test_the_end_of_a_job_is_told_and_the_package_believes_it(submitter):
    with Inbox() as inbox:
        job = submit(submitter, inbox.url)
        headers, body = inbox.next()
    event = WEBHOOKS.unwrap(body, headers)
    told = json.loads(body)
    assert (event.id, event.type, event.object) == (headers["webhook-id"], "transcription.completed", "event")
    assert told["id"].startswith("evt_") and told["data"]["id"] == told["data"]["task_id"] == job
    assert abs(told["created_at"] - time.time()) < PATIENCE
    assert headers["content-type"] == "application/json"
    assert re.fullmatch(r"whisperwire/\d+\.\d+\.\d+", headers["user-agent"])

    def refused(body=body, secret=SECRET, **changed):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            WEBHOOKS.unwrap(body, headers | changed, secret=secret)

    refused(body=body.replace(b"completed", b"cancelled"))
    refused(body=body[:-1])
    refused(**{"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)})
    refused(**{"webhook-id": headers["webhook-id"] + "0"})
    refused(secret="whsec_" + base64.b64encode(b"another").decode())


def test_what_was_not_taken_comes_again_under_the_same_id():
    # A redirect is no delivery either, and leads nowhere.
    with Inbox(307) as inbox:
        submit("submit.sh", inbox.url)
        (first, body), (second, again) = inbox.next(), inbox.next()
    assert body == again
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) > int(first["webhook-timestamp"])
    for headers in (first, second):
        WEBHOOKS.unwrap(body, headers)


def test_the_examples_of_the_page_work_together():
    with receiver_of_the_page() as (url, lines):
        job = submit("submit.py", url)
        assert lines.get(timeout=PATIENCE) == f"transcription.completed {job}"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://localhost/", "http://2130706433/", "http://[::1]/", "no"])
def test_a_server_that_was_not_told_to_calls_nobody_behind_the_firewall(url):
    client = openai.OpenAI(base_url=os.environ["WHISPERWIRE_SCRIPT"] + "/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        client.post(
            "/jobs", cast_to=object, files={"file": RECORDING}, body={"model": "whisper-1", "webhook_url": url},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
    assert refused.value.param == "webhook_url"
