"""faster-whisper over recordings, in a process of its own, so that its CPU seconds are all of that process's.

Reads one JSON object from standard input (`weights`, `recordings` of `path` and `language`), and writes a line of JSON
for each recording: `text`, `cpu` (seconds), `wall` (seconds).
"""

import json
import sys
import time

from faster_whisper import WhisperModel


def main():
    work = json.load(sys.stdin)
    model = WhisperModel(work["weights"], device="cpu", compute_type="int8", cpu_threads=1, num_workers=1)
    print(json.dumps({"ready": True}), flush=True)
    for recording in work["recordings"]:
        cpu, wall = time.process_time(), time.monotonic()
        segments, _ = model.transcribe(
            recording["path"], beam_size=5, vad_filter=True, language=recording["language"] or None
        )
        text = "".join(segment.text for segment in segments).strip()
        told = {"text": text, "cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}
        print(json.dumps(told, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
