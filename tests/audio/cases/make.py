#!/usr/bin/env python3
"""Makes words-N.flac and words.json: sentences by flite whose word starts are known from its own synthesis.

    tests/audio/cases/make.py        needs flite and ffmpeg; writes beside itself

flite tells where each phone ends (`-psdur`). A word's phones are counted by having flite say it alone; a sentence in
which that does not add up, because words run together, is left out. Half a second of silence stands in front.
"""
import json
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
LEAD = 0.5
SENTENCES = [
    ("slt", "Could you send me the report before the end of the day"),
    ("awb", "She opened the old wooden door and found a garden full of roses"),
    ("rms", "The train to the coast leaves from the second platform"),
    ("slt", "We have to finish this work by Friday or we will lose the contract"),
    ("awb", "The children were playing in the snow when their father came back"),
    ("slt", "It was raining hard so we decided to stay at home and read"),
]


def phones(voice, text, out):
    """Each phone and where it ends, in seconds."""
    command = ["flite", "-voice", voice, "-t", text, "-o", out, "-psdur"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [(phone, float(end)) for phone, end in (part.split(":") for part in told)]


def starts(voice, text, scratch):
    """Where each word begins, or None; the recording of the sentence stays in `scratch`."""
    words = text.split()
    counts = [sum(phone != "pau" for phone, _ in phones(voice, word, scratch)) for word in words]
    begins, before = [], 0.0
    for phone, end in phones(voice, text, scratch):
        if phone != "pau":
            begins.append(before)
        before = end
    if sum(counts) != len(begins):
        return None
    firsts = [sum(counts[:n]) for n in range(len(words))]
    return [[word, round(LEAD + begins[first], 3)] for word, first in zip(words, firsts)]


def main():
    truth = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = f"{folder}/said.wav"
        for number, (voice, text) in enumerate(SENTENCES, 1):
            words = starts(voice, text, scratch)
            if words is None:
                continue
            name = f"words-{number}.flac"
            sound = f"adelay={int(LEAD * 1000)},apad=pad_dur=0.7"
            subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", scratch, "-af", sound,
                            "-ar", "16000", "-sample_fmt", "s16", str(HERE / name)], check=True)
            truth[name] = words
    (HERE / "words.json").write_text(json.dumps(truth, indent=1) + "\n")


main()
