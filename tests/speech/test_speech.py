"""The tests of the benchmark itself: no server, no audio. What needs the pinned packages is skipped without them."""

import contextlib
import io
import json
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

import bench
import manifest
import score

GOOD = {"file": "a.flac", "set": "x", "language": "en", "reference": "hello", "seconds": 1.0}
SILENT = {"file": "n.flac", "set": "noise", "language": "none", "reference": "", "seconds": 2.0}


def words(text, language):
    """A stand-in for the normaliser."""
    return list(text) if language in score.BY_CHARACTER else text.lower().split()


class Counting(unittest.TestCase):
    def test_the_distance_is_the_fewest_changes(self):
        cases = [
            ("", "", 0), ("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "a c", 1), ("a b c", "a b b c", 1),
            ("a b", "", 2), ("", "a b", 2), ("a b c d", "b c d a", 2), ("a a a", "a", 2), ("a b a b", "b a b a", 2),
        ]  # fmt: skip
        for said, heard, expected in cases:
            with self.subTest(said=said, heard=heard):
                self.assertEqual(score.distance(said.split(), heard.split()), expected)
                self.assertEqual(score.distance(heard.split(), said.split()), expected)

    def test_speakers_at_once_are_counted_in_their_best_order(self):
        told = score.score(["a b c", "d e"], "d e a b x", "en", words)
        self.assertEqual((told.errors, told.units), (1, 5))
        # One of two heard is no full score.
        self.assertEqual(score.score(["a b c", "d e"], "a b c", "en", words).errors, 2)

    def test_characters_are_counted_where_words_have_no_spaces(self):
        told = score.score(["出现交易"], "出现教易", "zh", words)
        self.assertEqual((told.errors, told.units), (1, 4))

    def test_runaways(self):
        sentence = "the quick brown fox jumps over the lazy dog while it rains"
        cases = [
            (sentence, sentence, False), (sentence, f"{sentence} {sentence}", False),
            (sentence, " ".join([sentence] * 3), True), ("", "thank you", False), ("", "no " * 11, True),
            # Said as often as heard.
            ("go " * 40, "go " * 40, False), ("one two " + "go " * 40, "one two " + "no " * 40, False),
            ("a b c d e f g h i j k l m n o p q r s t u v w x y z " * 1, "really " * 26, True),
        ]  # fmt: skip
        for said, heard, expected in cases:
            with self.subTest(said=said, heard=heard):
                self.assertEqual(score.score([said], heard, "en", words).runaway, expected)

    def test_the_normaliser_has_whispers_rules(self):
        try:
            units = score.Normaliser().units
        except ImportError:
            self.skipTest("whisper-normalizer is not installed: tests/speech/run --test --install")
        same = [
            ("en", "Mr. Smith won't pay twenty-five dollars.", "mister smith will not pay $25"),
            ("en", "The colour, uh, [laughs] of 50 percent", "the color of 50%"),
            ("fr", "C'est l'été, à Paris !", "c est l été à paris"),
            ("none", "Thank you.", "thank you"),
        ]
        for language, one, other in same:
            with self.subTest(text=one):
                self.assertEqual(units(one, language), units(other, language))
        self.assertEqual(units("甚至,出现。", "zh"), list("甚至出现"))
        self.assertEqual(units("안녕 하세요.", "ko"), list("안녕하세요"))
        self.assertNotEqual(units("été", "fr"), units("ete", "fr"))


class Manifests(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for name in ("a.flac", "n.flac"):
            (self.folder / name).write_bytes(b"")

    def read(self, text, **more):
        text = text if isinstance(text, str) else json.dumps(text)
        (self.folder / "manifest.json").write_text(text)
        return manifest.read(self.folder, **more)

    def test_recordings_are_read(self):
        several = {**GOOD, "references": ["hello", "you"], "speaker": "s", "turns": []}
        told = self.read([GOOD, several, SILENT])
        self.assertEqual([one.references for one in told], [["hello"], ["hello", "you"], [""]])
        self.assertEqual([one.speech for one in told], [True, True, False])
        self.assertEqual(len(self.read([GOOD, GOOD, SILENT], limit=1)), 2)
        self.assertEqual([one.set for one in self.read([GOOD, SILENT], sets=["noise"])], ["noise"])

    def test_bad_ones_are_refused_in_a_sentence(self):
        cases = [
            ("", "is not JSON"), ("[" * 100_000, "is not JSON"), ("{}", "not a list"), ("[]", "not a list"),
            ("[1]", "not an object"), ([{}], "no text `file`"), ([{**GOOD, "set": None}], "no text `set`"),
            ([{**GOOD, "reference": 5}], "no text `reference`"), ([{**GOOD, "file": "../a.flac"}], "outside"),
            ([{**GOOD, "file": "/etc/passwd"}], "outside"), ([{**GOOD, "file": "b.flac"}], "is not there"),
            ([{**GOOD, "file": "b.flac"}, {**GOOD, "file": "c.flac"}], "nor are 1 others"),
            ([{**GOOD, "references": "ab"}], "no list of texts"), ([{**GOOD, "language": "none"}], "a reference and"),
        ]  # fmt: skip
        for text, expected in cases:
            with self.subTest(text=str(text)[:60]), self.assertRaises(manifest.BadManifest) as told:
                self.read(text)
            self.assertIn(expected, str(told.exception))
            self.assertNotIn("\n", str(told.exception))
        with self.assertRaises(manifest.BadManifest) as told:
            self.read([GOOD], sets=["y"])
        self.assertIn("no set 'y'; it has x", str(told.exception))
        (self.folder / "manifest.json").write_bytes(b"\xff\xfe")
        with self.assertRaises(manifest.BadManifest):
            manifest.read(self.folder)
        with self.assertRaises(manifest.BadManifest):
            manifest.read(self.folder / "nowhere")


class Reports(unittest.TestCase):
    @staticmethod
    def row(entry, unit="words", **results):
        return {**{name: entry[name] for name in ("file", "set", "language", "seconds")}, "unit": unit, **results}

    @staticmethod
    def result(errors, units, heard, cpu=1.0, **more):
        return {
            "text": "", "errors": errors, "units": units, "heard": heard, "runaway": False, "cpu": cpu, "wall": 1.0, **more,
        }  # fmt: skip

    def test_errors_are_over_the_words_of_a_whole_set(self):
        rows = [
            self.row(GOOD, file_result=self.result(1, 2, 2), other_result=self.result(0, 2, 2, cpu=0.5)),
            self.row(GOOD, file_result=self.result(0, 8, 8), other_result=self.result(0, 8, 8, cpu=0.5)),
            self.row(SILENT, file_result=self.result(3, 0, 3), other_result=self.result(0, 0, 0)),
        ]
        lines = {one["name"]: one for one in bench.summary(rows)}
        self.assertEqual(lines["x"]["file"]["rate"], 10.0)
        self.assertEqual(lines["x"]["file"]["cpu"], 1.0)
        noise = lines["noise"]["file"]
        self.assertEqual((noise["rate"], noise["false_text"], noise["false_words"]), (None, 1, 3))
        # Text where nobody speaks is told by itself, not as wrong words.
        self.assertEqual(lines["everything"]["file"]["rate"], 10.0)
        files, other, compared = bench.table(list(lines.values()), "faster-whisper").split("\n\n")
        self.assertEqual(files.splitlines()[1].split()[1:], ["2", "2", "1/10", "10.00", "-", "0", "1.000"])
        self.assertIn("1/1 (3 words)", files.splitlines()[2])
        self.assertEqual(other.split()[0], "faster-whisper")
        self.assertEqual(compared.splitlines()[1].split(), ["x", "+10.00", "2.00"])

    def test_words_and_characters_are_not_added_up(self):
        rows = [
            self.row(GOOD, file_result=self.result(0, 2, 2)),
            self.row({**GOOD, "language": "zh"}, unit="characters", file_result=self.result(1, 4, 4)),
        ]
        lines = {one["name"]: one for one in bench.summary(rows)}
        self.assertIsNone(lines["everything"]["file"]["rate"])
        self.assertEqual(lines["all by character"]["file"]["rate"], 25.0)

    def test_an_unfinished_run_is_still_a_report(self):
        rows = [self.row(GOOD, file_result=self.result(0, 2, 2)), self.row({**GOOD, "set": "y"})]
        self.assertEqual(len(bench.table(bench.summary(rows)).splitlines()), 5)

    def test_latencies_are_told_on_the_clock_of_the_stream(self):
        event = lambda kind, **fields: type(kind, (SimpleNamespace,), {})(**fields)  # noqa: E731
        heard = bench.Heard(speed=2.0)
        heard.begin(100.0)
        heard.take(event("SpeechStarted", utterance=1, at=2.0), 101.1)
        heard.take(event("Partial", utterance=1, text=""), 101.3)
        heard.take(event("Partial", utterance=1, text="he"), 101.5)
        heard.take(event("Final", utterance=1, text="hello", end=4.0), 102.75)
        heard.take(event("Final", utterance=1, text="you", end=6.0), 103.0)
        heard.take(event("Done"), 103.0)
        self.assertEqual((heard.to_first, heard.to_final), ([0.5], [0.75, 0.0]))
        self.assertEqual((heard.text(), heard.done), ("hello you", True))

    def test_spread(self):
        self.assertEqual(bench.spread([]), None)
        told = bench.spread([float(n) for n in range(10, 0, -1)])
        self.assertEqual((told["median"], told["ninety"]), (5.0, 9.0))


class Arguments(unittest.TestCase):
    def test_what_follows_the_dashes_goes_to_the_server(self):
        options = bench.read_arguments(["--speech", "d", "--sets", "a,b", "--", "--workers", "2"])
        self.assertEqual((options.sets, options.flags), (["a", "b"], ["--workers", "2"]))

    def test_nonsense_is_refused(self):
        for bad in (["--limit", "0"], ["--speed", "-1"], ["--speed", "nan"], ["--form", "x"], ["--no-server"]):
            with self.subTest(bad=bad), contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                bench.read_arguments(["--speech", "d", *bad])


if __name__ == "__main__":
    unittest.main()
