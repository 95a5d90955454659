"""What an application sees that talks to the server through the `openai` package.

`run` starts the servers and names them in the environment. The bundled model must hear the words; where only the
shape of an answer counts, or a model that translates is needed, the scripted engine is enough.
"""

import asyncio
import json
import os
import re
from pathlib import Path

import openai
import pytest
from openai.types import Model
from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
    Translation,
    TranslationVerbose,
)

AUDIO = Path(__file__).parent.parent / "audio"
RECORDINGS = ["sentence-04-slt.flac", "sentence-08-slt.flac", "sentence-10-espeak.flac"]
RECORDING = RECORDINGS[0]
MANIFEST = {entry["file"]: entry for entry in json.loads((AUDIO / "manifest.json").read_text())}


def client(server="BUNDLED", key="any", kind=openai.OpenAI):
    # No retries: a test that passes at the third attempt would hide what it is for.
    return kind(base_url=os.environ[f"WHISPERWIRE_{server}"] + "/v1", api_key=key, max_retries=0, timeout=120)


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
