"""Starts Autobahn's fuzzing client, which exists for Python 2.7 alone: fuzz.py FOLDER_OF_PACKAGES SPEC.

The packages come from `requirements.txt` beside this file, into a folder of their own. Two things are left out there:
wsaccel, which needs a compiler and makes nothing but the client faster, and unittest2, for which Python 2.7's own
unittest does: it is only imported, never used.
"""

import site
import sys
import unittest

packages, spec = sys.argv[1:]
site.addsitedir(packages)
sys.path.insert(0, packages)
sys.modules["unittest2"] = unittest

from autobahntestsuite.wstest import run  # noqa: E402, the path has to be set first

sys.argv = ["wstest", "-m", "fuzzingclient", "-s", spec]
run()
