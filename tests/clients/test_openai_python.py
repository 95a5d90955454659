"""What an application sees that talks to the server through the `openai` package.

`run` starts the servers and names them in the environment. The bundled model must hear the words; where only the
shape of an answer counts, or a model that translates is needed, the scripted engine is enough.
"""

import asyncio
import base64
import json
import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from openai.types import Model, ModelDeleted
from openai.types.audio import (
    Transcription,
    TranscriptionStreamEvent,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
    Translation,
    TranslationVerbose,
)
from openai.types.chat import ChatCompletion, ChatCompletionChunk

AUDIO = Path(__file__).parent.parent / "audio"
RECORDINGS = ["sentence-04-slt.flac", "sentence-08-slt.flac", "sentence-10-espeak.flac"]
RECORDING = RECORDINGS[0]
MANIFEST = {entry["file"]: entry for entry in json.loads((AUDIO / "manifest.json").read_text())}


def client(server="BUNDLED", key="any", kind=openai.OpenAI, max_retries=0):
    # No retries: a test that passes at the third attempt would hide what it is for.
    base_url = os.environ[f"WHISPERWIRE_{server}"] + "/v1"
    return kind(base_url=base_url, api_key=key, max_retries=max_retries, timeout=120)


def transcribe(recording=RECORDING, server="BUNDLED", **fields):
    """One answer; of a stream, the list of its events."""
    with open(AUDIO / recording, "rb") as file, client(server) as api:
        answer = api.audio.transcriptions.create(file=file, model="whisper-1", **fields)
        return list(answer) if fields.get("stream") else answer


def translate(**fields):
    with open(AUDIO / RECORDING, "rb") as file, client("SCRIPT") as api, pytest.warns(DeprecationWarning):
        return api.audio.translations.create(file=file, model="whisper-1", **fields)


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def spoken(recording=RECORDING):
    return words(MANIFEST[recording]["text"])


def cue_text(captions):
    """The text lines of SubRip or WebVTT: all but the header, numbers, times and blanks."""
    dull = re.compile(r"WEBVTT|\d+|.* --> .*|\s*")
    return "\n".join(line for line in captions.splitlines() if not dull.fullmatch(line))


@pytest.mark.parametrize("recording", RECORDINGS)
def test_json_has_the_words(recording):
    answer = transcribe(recording)
    assert type(answer) is Transcription
    assert words(answer.text) == spoken(recording)
    assert answer.logprobs is None, "log probabilities come only when asked for"


def test_usage_says_how_long_the_recording_is():
    usage = transcribe(response_format="json").usage
    assert usage is not None and usage.type == "duration"
    assert usage.seconds == pytest.approx(MANIFEST[RECORDING]["seconds"], abs=1)


def test_text_is_the_words_and_one_newline():
    answer = transcribe(response_format="text")
    assert type(answer) is str
    assert words(answer) == spoken()
    assert answer == answer.strip() + "\n"


def test_srt_has_numbered_cues():
    answer = transcribe(response_format="srt")
    assert type(answer) is str
    assert re.match(r"1\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\n", answer)
    assert answer.endswith("\n\n")
    assert words(cue_text(answer)) == spoken()


def test_vtt_has_its_header_and_cues():
    answer = transcribe(response_format="vtt")
    assert type(answer) is str
    assert re.match(r"WEBVTT\n\n\d\d:\d\d\.\d{3} --> \d\d:\d\d\.\d{3}\n", answer)
    assert words(cue_text(answer)) == spoken()


def test_verbose_json_has_segments_and_no_words_unless_asked():
    answer = transcribe(response_format="verbose_json")
    assert type(answer) is TranscriptionVerbose
    assert words(answer.text) == spoken()
    assert answer.language == "english"
    assert type(answer.duration) is float
    assert answer.duration == pytest.approx(MANIFEST[RECORDING]["seconds"], abs=0.1)
    assert answer.words is None
    assert answer.segments
    assert words(" ".join(segment.text for segment in answer.segments)) == spoken()
    end_before = 0.0
    for number, segment in enumerate(answer.segments):
        assert segment.id == number
        assert end_before <= segment.start < segment.end <= answer.duration
        assert segment.tokens and all(type(token) is int for token in segment.tokens)
        assert segment.avg_logprob <= 0.0 <= segment.no_speech_prob <= 1.0
        assert segment.compression_ratio > 0.0 and segment.temperature >= 0.0
        end_before = segment.end


def test_word_times_are_real():
    answer = transcribe(response_format="verbose_json", timestamp_granularities=["word"])
    assert answer.segments is None, "only words were asked for"
    assert [words(word.word) for word in answer.words] == [[word] for word in spoken()]
    end_before = 0.0
    for word in answer.words:
        assert word.word == word.word.strip()
        assert end_before <= word.start <= word.end <= answer.duration
        end_before = word.end
    # The recording begins with 0.4 s and ends with 0.6 s of silence; in between somebody speaks all the time.
    assert 0.2 <= answer.words[0].start <= 1.0
    assert answer.words[-1].end >= answer.duration - 1.5


def test_words_and_segments_come_together():
    answer = transcribe(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert answer.words and answer.segments


def test_log_probabilities_spell_the_text():
    answer = transcribe(response_format="json", include=["logprobs"])
    assert answer.logprobs
    assert all(entry.logprob <= 0.0 for entry in answer.logprobs)
    assert words("".join(entry.token for entry in answer.logprobs)) == spoken()
    for entry in answer.logprobs:
        assert bytes(int(byte) for byte in entry.bytes).decode(errors="replace") == entry.token


@pytest.mark.parametrize(
    "fields",
    [{"language": "en"}, {"temperature": 0.0}, {"chunking_strategy": "auto"}],
    ids=lambda fields: next(iter(fields)),
)
def test_a_field_that_asks_for_what_is_so_anyway_changes_no_word(fields):
    assert words(transcribe(**fields).text) == spoken()


def test_a_prompt_keywords_and_a_server_vad_are_taken():
    strategy = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
    hints = {"prompt": "The quarterly report.", "keywords": ["report", "day"], "languages": ["en", "de"]}
    answer = transcribe(server="SCRIPT", chunking_strategy=strategy, **hints)
    assert answer.text


def test_the_path_the_bytes_and_the_tuple_are_the_same_file():
    data = (AUDIO / RECORDING).read_bytes()
    with client() as api:
        for file in (AUDIO / RECORDING, data, ("mislabelled.mp3", data, "audio/mpeg")):
            assert words(api.audio.transcriptions.create(file=file, model="gpt-4o-transcribe").text) == spoken()


def test_stream_deltas_make_the_final_text():
    *deltas, done = transcribe(stream=True)
    assert deltas and all(type(event) is TranscriptionTextDeltaEvent for event in deltas)
    assert type(done) is TranscriptionTextDoneEvent
    assert "".join(event.delta for event in deltas) == done.text
    assert words(done.text) == spoken()


def test_a_stream_with_log_probabilities():
    *deltas, done = transcribe(stream=True, include=["logprobs"])
    told = [entry for event in deltas for entry in event.logprobs]
    assert told and [entry.token for entry in told] == [entry.token for entry in done.logprobs]
    assert words("".join(entry.token for entry in told)) == spoken()
    usage = done.usage
    assert usage.output_tokens > 0 and usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_a_long_recording_comes_in_many_deltas():
    *deltas, done = transcribe("dialogue-mono.flac", stream=True)
    assert len(deltas) > 1
    assert "".join(event.delta for event in deltas) == done.text


def test_a_translation_streams_too():
    # The package has no parameter for it, therefore its method for requests of one's own.
    with open(AUDIO / RECORDING, "rb") as file, client("SCRIPT") as api:
        stream = api.post(
            "/audio/translations",
            body={"model": "whisper-1", "stream": "true"},
            files=[("file", file)],
            options={"headers": {"Content-Type": "multipart/form-data"}},
            cast_to=TranscriptionStreamEvent,
            stream=True,
            stream_cls=openai.Stream[TranscriptionStreamEvent],
        )
        *deltas, done = list(stream)
    assert type(done) is TranscriptionTextDoneEvent
    assert "".join(event.delta for event in deltas) == done.text == translate().text


def test_translations_are_typed():
    answer = translate()
    assert type(answer) is Translation and answer.text

    verbose = translate(response_format="verbose_json")
    assert type(verbose) is TranslationVerbose
    assert verbose.language == "english" and verbose.segments
    assert verbose.duration == pytest.approx(MANIFEST[RECORDING]["seconds"], abs=0.1)

    assert translate(response_format="text") == translate(response_format="text").strip() + "\n"
    assert translate(response_format="srt").startswith("1\n00:00:")
    assert translate(response_format="vtt").startswith("WEBVTT\n\n")


def test_models_are_listed_and_found():
    with client() as api:
        models = list(api.models.list())
        assert models and all(type(model) is Model and model.object == "model" for model in models)
        for model in models:
            assert api.models.retrieve(model.id) == model


def test_a_model_is_deleted_as_the_package_expects():
    with client("SCRIPT") as api:
        deleted = api.models.delete("nobody/needs-this-one")
    assert type(deleted) is ModelDeleted and deleted.id == "nobody/needs-this-one"


def test_async_client_hears_several_files_at_once():
    async def all_at_once():
        async with client(kind=openai.AsyncOpenAI) as api:
            create = api.audio.transcriptions.create
            return await asyncio.gather(*(create(file=AUDIO / name, model="whisper-1") for name in RECORDINGS))

    answers = asyncio.run(all_at_once())
    assert [words(answer.text) for answer in answers] == [spoken(name) for name in RECORDINGS]


def test_async_stream():
    async def deltas():
        async with client(kind=openai.AsyncOpenAI) as api:
            stream = await api.audio.transcriptions.create(file=AUDIO / RECORDING, model="whisper-1", stream=True)
            return [event async for event in stream]

    *parts, done = asyncio.run(deltas())
    assert "".join(part.delta for part in parts) == done.text
    assert words(done.text) == spoken()


def check_error(caught, status):
    """The body of every error has the four keys, and its request id reaches the exception."""
    error = caught.value
    assert error.status_code == status
    assert error.request_id
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.body["message"] and error.type == error.body["type"]
    return error


def test_bytes_that_are_no_audio_are_a_bad_request():
    with client() as api, pytest.raises(openai.BadRequestError) as caught:
        api.audio.transcriptions.create(file=("noise.mp3", b"This is not music. " * 100), model="whisper-1")
    error = check_error(caught, 400)
    assert error.type == "invalid_request_error" and error.param == "file"
    assert words(transcribe().text) == spoken(), "the next request works"


def test_an_empty_file_is_a_bad_request():
    with client() as api, pytest.raises(openai.BadRequestError) as caught:
        api.audio.transcriptions.create(file=("empty.wav", b""), model="whisper-1")
    assert check_error(caught, 400).param == "file"


def test_an_unknown_format_is_a_bad_request():
    with pytest.raises(openai.BadRequestError) as caught:
        transcribe(response_format="yaml")
    assert check_error(caught, 400).param == "response_format"


def test_word_times_in_a_format_without_them_are_a_bad_request():
    with pytest.raises(openai.BadRequestError) as caught:
        transcribe(response_format="json", timestamp_granularities=["word"])
    check_error(caught, 400)


def test_an_unknown_model_and_an_unknown_route_are_not_found():
    with client() as api:
        with pytest.raises(openai.NotFoundError) as caught:
            api.models.retrieve("nobody/has-this-one")
        assert check_error(caught, 404).code == "model_not_found"
        with pytest.raises(openai.NotFoundError) as caught:
            api.post("/audio/whistles", cast_to=object, body={})
        check_error(caught, 404)


def test_a_wrong_key_is_refused_and_the_right_one_taken():
    with client("KEYED", key="a-wrong-key") as api:
        with pytest.raises(openai.AuthenticationError) as caught:
            api.models.list()
        assert check_error(caught, 401).code == "invalid_api_key"
        with open(AUDIO / RECORDING, "rb") as file, pytest.raises(openai.AuthenticationError) as caught:
            api.audio.transcriptions.create(file=file, model="whisper-1")
        check_error(caught, 401)
    with client("KEYED", key=os.environ["WHISPERWIRE_KEY"]) as api:
        assert list(api.models.list())


def test_every_answer_has_a_request_id_of_its_own():
    with client() as api:
        ids = {api.models.with_raw_response.list().headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def twice_at_once(**options):
    """Two uploads to a server that takes one at a time: for each the text, or the error, and how it came to that."""

    def upload(_):
        begun = time.monotonic()
        with client("BUSY", **options) as api, open(AUDIO / RECORDING, "rb") as file:
            try:
                raw = api.audio.transcriptions.with_raw_response.create(file=file, model="whisper-1")
            except openai.APIStatusError as error:
                return error, 0, time.monotonic() - begun
            return raw.parse().text, raw.retries_taken, time.monotonic() - begun

    with ThreadPoolExecutor(2) as both:
        return list(both.map(upload, range(2)))


def test_a_full_server_says_when_to_come_back():
    outcomes = [outcome for outcome, _, _ in twice_at_once()]
    (error,) = [outcome for outcome in outcomes if isinstance(outcome, openai.APIStatusError)]
    assert type(error) is openai.InternalServerError and error.status_code == 503
    assert error.code == "overloaded" and set(error.body) == {"message", "type", "param", "code"}
    assert int(error.response.headers["retry-after"]) >= 1


def test_a_file_that_is_too_large_is_refused_as_such():
    with client("BUSY") as api, pytest.raises(openai.APIStatusError) as caught:
        api.audio.transcriptions.create(file=("large.wav", bytes(2 << 20)), model="whisper-1")
    assert check_error(caught, 413).code == "file_too_large"


def test_the_package_comes_back_when_it_was_told_to():
    (_, first, _), (_, second, took) = outcomes = sorted(twice_at_once(max_retries=20), key=lambda one: one[1])
    assert all(type(text) is str and text for text, _, _ in outcomes)
    assert first == 0 < second
    # Retry-After counts whole seconds; without it the package would be back after less than one.
    assert took >= second


def question(**more):
    """A chat message with a recording in it, as applications send it to a model that listens."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", AUDIO / RECORDING, "-c:a", "pcm_s16le", "-f", "wav", "-"]
    wav = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    heard = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav).decode(), "format": "wav"}}
    content = [{"type": "text", "text": "The quarterly report."}, heard]
    return {"model": "whisper-1", "messages": [{"role": "user", "content": content}]} | more


def check_chat_usage(usage):
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_chat_completion_hears_what_was_said():
    with client() as api:
        answer = api.chat.completions.create(**question())
    assert type(answer) is ChatCompletion
    (choice,) = answer.choices
    assert words(choice.message.content) == spoken()
    assert (choice.message.role, choice.message.audio, choice.finish_reason) == ("assistant", None, "stop")
    check_chat_usage(answer.usage)


def test_a_chat_completion_that_should_speak_says_it_in_text():
    with client() as api:
        answer = api.chat.completions.create(
            **question(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})
        )
    message = answer.choices[0].message
    assert words(message.audio.transcript) == words(message.content) == spoken()
    assert message.audio.id and message.audio.data == "" and message.audio.expires_at > 0


def check_chunks(chunks):
    assert all(type(chunk) is ChatCompletionChunk for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert words("".join(choice.delta.content or "" for choice in choices)) == spoken()
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert choices[-1].finish_reason == "stop"


def test_a_chat_completion_streams():
    with client() as api:
        check_chunks(list(api.chat.completions.create(**question(stream=True))))
        with_usage = list(api.chat.completions.create(**question(stream=True, stream_options={"include_usage": True})))
    check_chunks(with_usage)
    assert with_usage[-1].choices == []
    check_chat_usage(with_usage[-1].usage)


def test_a_chat_completion_streams_async():
    async def chunks():
        async with client(kind=openai.AsyncOpenAI) as api:
            return [chunk async for chunk in await api.chat.completions.create(**question(stream=True))]

    check_chunks(asyncio.run(chunks()))


def test_a_chat_completion_without_audio_is_a_bad_request():
    nothing = {"type": "input_audio", "input_audio": {"data": "no base64!", "format": "wav"}}
    with client() as api:
        for content in ("Hello?", [{"type": "text", "text": "Hello?"}], [nothing]):
            with pytest.raises(openai.BadRequestError) as caught:
                api.chat.completions.create(model="whisper-1", messages=[{"role": "user", "content": content}])
            check_error(caught, 400)
