"""What a voice agent hears that is built with Pipecat or LiveKit and told to use this server as its OpenAI.

A recording is fed as a microphone would feed it: in frames of 20 ms, as fast as it is spoken, with silence behind it.
What comes out of the framework's own speech-to-text must be the words, and no error may come with them.
`run` starts the server, with a key.
"""

import asyncio
import json
import os
import re
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from livekit import rtc
from livekit.agents import APIConnectOptions
from livekit.agents.stt import SpeechEventType
from livekit.agents.utils import http_context
from livekit.plugins import openai as livekit
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.workers.runner import WorkerRunner

URL = os.environ["WHISPERWIRE_URL"]
KEY = os.environ["WHISPERWIRE_KEY"]
AUDIO = Path(__file__).parent.parent.parent / "audio"
MANIFEST = {entry["file"]: entry for entry in json.loads((AUDIO / "manifest.json").read_text())}
RECORDINGS = ["sentence-04-slt.flac", "sentence-07-awb.flac"]

FRAME = 0.02  # seconds
SILENCE = 1.5  # seconds behind each recording, for the end of a turn to be heard
ANSWERS_WITHIN = 90  # seconds; a debug build on a busy machine, nothing here is measured


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def spoken():
    return [word for name in RECORDINGS for word in words(MANIFEST[name]["text"])]


def frames(rate):
    """The recordings one after another, as frames of raw 16-bit samples."""
    pcm = b""
    for name in RECORDINGS:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(AUDIO / name), "-af", f"apad=pad_dur={SILENCE}"]
        pcm += subprocess.run(
            [*command, "-ac", "1", "-ar", str(rate), "-f", "s16le", "-"], check=True, capture_output=True
        ).stdout
    size = 2 * round(rate * FRAME)
    return [pcm[at : at + size] for at in range(0, len(pcm) - size + 1, size)]


async def paced(items):
    """Each item when it would have been spoken."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for number, item in enumerate(items):
        await asyncio.sleep(max(0.0, began + number * FRAME - clock()))
        yield item


@dataclass
class Heard:
    """What came out of a framework."""

    interim: list[str] = field(default_factory=list)
    finals: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)  # "started" and "stopped"
    errors: list[str] = field(default_factory=list)

    async def everything(self):
        """Until all words are there, or too many of them, or an error."""
        while not self.errors and len(words(" ".join(self.finals))) < len(spoken()):
            await asyncio.sleep(0.05)

    def check(self):
        assert self.errors == []
        assert words(" ".join(self.finals)) == spoken()


# ---- Pipecat -------------------------------------------------------------------------------------------------

RATE = 16_000  # what a Pipecat pipeline usually runs at; the realtime service resamples to 24 kHz itself


class Sink(FrameProcessor):
    """The end of the pipeline, where an agent's brain would be."""

    def __init__(self, heard: Heard):
        super().__init__()
        self._heard = heard

    async def process_frame(self, frame: Frame, direction: FrameDirection):
        await super().process_frame(frame, direction)
        match frame:
            case InterimTranscriptionFrame():
                self._heard.interim.append(frame.text)
            case TranscriptionFrame():
                self._heard.finals.append(frame.text)
            case ProposedUserStartedSpeakingFrame():
                self._heard.turns.append("started")
            case ProposedUserStoppedSpeakingFrame():
                self._heard.turns.append("stopped")
        await self.push_frame(frame, direction)


def pipecat(service, *before):
    """Runs a pipeline with this service until it has heard the recordings."""

    async def run():
        heard = Heard()
        worker = PipelineWorker(
            Pipeline([*before, service, Sink(heard)]),
            params=PipelineParams(audio_in_sample_rate=RATE),
            cancel_on_idle_timeout=False,
            enable_rtvi=False,
        )
        started = asyncio.Event()

        @worker.event_handler("on_pipeline_started")
        async def on_started(_worker, _frame):
            started.set()

        @worker.event_handler("on_pipeline_error")
        async def on_error(_worker, frame):
            heard.errors.append(str(frame))

        async def speak():
            await started.wait()
            async for pcm in paced(frames(RATE)):
                await worker.queue_frame(InputAudioRawFrame(audio=pcm, sample_rate=RATE, num_channels=1))
            await heard.everything()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        running = asyncio.create_task(runner.run())
        try:
            await asyncio.wait_for(speak(), ANSWERS_WITHIN)
        except TimeoutError:
            heard.errors.append(f"not everything was heard within {ANSWERS_WITHIN} s: {heard.finals}")
        await worker.queue_frame(EndFrame())
        await asyncio.wait_for(running, ANSWERS_WITHIN)
        return heard

    return asyncio.run(run())


def realtime(turn_detection, model):
    return OpenAIRealtimeSTTService(
        api_key=KEY,
        base_url=URL.replace("http", "ws", 1) + "/v1/realtime",
        turn_detection=turn_detection,
        settings=OpenAIRealtimeSTTService.Settings(model=model, noise_reduction="near_field"),
    )


def local_vad():
    """The detector that Pipecat brings; patient enough not to cut a sentence at its comma."""
    return VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=0.8)))


def test_pipecat_realtime_with_turns_of_the_server():
    heard = pipecat(realtime({"type": "server_vad"}, "gpt-4o-transcribe"))
    heard.check()
    assert heard.turns == ["started", "stopped"] * len(RECORDINGS)
    assert len(heard.finals) == len(RECORDINGS)
    assert words("".join(heard.interim)) == spoken(), "each interim caption is new text, and together they are all of it"


def test_pipecat_realtime_as_it_comes():
    """Its default: a detector of its own, which commits, and the model that it prefers."""
    heard = pipecat(realtime(False, "gpt-realtime-whisper"), local_vad())
    heard.check()
    assert heard.turns == [], "the server was told not to detect turns"


def test_pipecat_uploads():
    settings = OpenAISTTService.Settings(model="gpt-transcribe", keywords=["report", "market"])
    service = OpenAISTTService(api_key=KEY, base_url=f"{URL}/v1", settings=settings, include_prob_metrics=True)
    pipecat(service, local_vad()).check()


# ---- LiveKit -------------------------------------------------------------------------------------------------

ONCE = APIConnectOptions(max_retry=0, timeout=30)  # a retry would hide what the test is for
LIVEKIT_RATE = 24_000


@asynccontextmanager
async def livekit_stt(**options):
    async with http_context.open():
        speech = livekit.STT(base_url=f"{URL}/v1", api_key=KEY, **options)
        try:
            yield speech
        finally:
            await speech.aclose()


def audio_frames():
    for pcm in frames(LIVEKIT_RATE):
        yield rtc.AudioFrame(pcm, LIVEKIT_RATE, 1, len(pcm) // 2)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "gpt-4o-mini-transcribe"},
        {"model": "gpt-transcribe", "language": ["en", "de"], "prompt": "Office talk.", "noise_reduction_type": "far_field"},
        {"model": "gpt-realtime-whisper"},  # a detector of its own commits
    ],
    ids=lambda options: options["model"],
)
def test_livekit_realtime(options):
    async def run():
        heard = Heard()
        async with livekit_stt(use_realtime=True, **options) as speech:
            stream = speech.stream(conn_options=ONCE)

            async def speak():
                async for frame in paced(list(audio_frames())):
                    stream.push_frame(frame)
                stream.flush()
                await heard.everything()

            async def listen():
                async for event in stream:
                    match event.type:
                        case SpeechEventType.INTERIM_TRANSCRIPT:
                            heard.interim.append(event.alternatives[0].text)
                        case SpeechEventType.FINAL_TRANSCRIPT:
                            heard.finals.append(event.alternatives[0].text.strip())
                        case SpeechEventType.START_OF_SPEECH:
                            heard.turns.append("started")
                        case SpeechEventType.END_OF_SPEECH:
                            heard.turns.append("stopped")
                        case SpeechEventType.RECOGNITION_USAGE:
                            usages.append(event.recognition_usage)

            usages = []
            listening = asyncio.create_task(listen())
            speaking = asyncio.create_task(speak())
            done, _ = await asyncio.wait(
                {listening, speaking}, timeout=ANSWERS_WITHIN, return_when=asyncio.FIRST_COMPLETED
            )
            if listening in done:
                heard.errors.append(f"the stream ended: {listening.exception()!r}")
            elif not done:
                heard.errors.append(f"not everything was heard within {ANSWERS_WITHIN} s: {heard.finals}")
            await stream.aclose()
            for task in (listening, speaking):
                task.cancel()
            await asyncio.gather(listening, speaking, return_exceptions=True)
        return heard, usages

    heard, usages = asyncio.run(run())
    heard.check()
    for caption in heard.interim:
        assert any(final.startswith(caption.strip()) for final in heard.finals), "what was shown stays"
    assert heard.turns == ["started", "stopped"] * (len(heard.turns) // 2) != []
    assert usages and all(usage.output_tokens > 0 for usage in usages)
    if options["model"] != "gpt-realtime-whisper":
        assert len(heard.finals) == len(RECORDINGS) == len(heard.turns) // 2
        assert all(0.0 < usage.audio_duration < 10.0 for usage in usages), "speech starts before it stops"


@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o-mini-transcribe", "gpt-transcribe"])
def test_livekit_uploads(model):
    async def run():
        async with livekit_stt(model=model, use_realtime=False) as speech:
            return await speech.recognize(list(audio_frames()), conn_options=ONCE)

    event = asyncio.run(run())
    assert words(event.alternatives[0].text) == spoken()
