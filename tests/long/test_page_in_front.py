"""The browser tests of asking, history, texts and errors, with the page in front of an engine behind HAProxy.

They are the same tests, in a run of their own, in which PAGE_IN_FRONT puts a scripted engine, or a real one,
behind the API.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

import pytest

from lab.instances.instance import ROOT
from tests.web.in_front import VARIABLE

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
]
ARGUMENTS: Final = "the scripted application tells its arguments in a reason, and the API has codes only"
STATE: Final = "the scripted application changes the state of its own process, which the page's is not"
ESTIMATE: Final = "the API has no position in the queue and no estimate"
#: The tests that need more than an engine's API can tell, and why.
LEFT_OUT: Final[Mapping[str, str]] = {
    "test_rows.py::test_an_edited_sentence_is_a_new_row_about_the_same_picture_and_premise": ARGUMENTS,
    "test_rows.py::test_a_heic_file_is_uploaded_whatever_type_the_browser_gives_it": ARGUMENTS,
    "test_states.py::test_a_premise_can_be_given": ARGUMENTS,
    "test_states.py::test_a_page_open_during_a_restart_uploads_the_picture_again": ARGUMENTS,
    "test_states.py::test_a_deleted_picture_is_uploaded_again_every_time": ARGUMENTS,
    "test_states.py::test_a_deleted_example_is_uploaded_again": ARGUMENTS,
    "test_states.py::test_a_deleted_picture_that_cannot_be_uploaded_again_is_an_input_error": ARGUMENTS,
    "test_states.py::test_the_status_line_shows_the_state": STATE,
    "test_states.py::test_queue_position_and_estimated_wait_are_shown_before_the_answer": ESTIMATE,
    "test_states.py::test_an_answer_later_than_estimated_is_announced": ESTIMATE,
    "test_states.py::test_the_status_line_shows_the_queue_and_its_estimated_wait": STATE,
    "test_history.py::test_the_history_survives_a_restart_and_its_picture_can_be_asked_about": ARGUMENTS,
    "test_history.py::test_a_large_picture_is_kept_smaller": ARGUMENTS,
}


@pytest.mark.parametrize("name", ["test_rows.py", "test_states.py", "test_history.py", "test_questions.py"])
def test_the_browser_tests_pass_in_front_of_an_engine(name: str) -> None:
    left_out = [one for one in LEFT_OUT if one.startswith(name)]
    for one in left_out:
        _, _, function = one.partition("::")
        assert f"def {function}(" in (ROOT / "tests" / "browser" / name).read_text(encoding="utf-8"), one
    deselected = [f"--deselect=tests/browser/{one}" for one in left_out]
    command = [sys.executable, "-m", "pytest", "-q", f"tests/browser/{name}", *deselected]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, VARIABLE: "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert ran.returncode == 0, ran.stdout.decode(errors="replace")[-8000:]
