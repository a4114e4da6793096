"""Several runs at once, as processes, of what they share: each ends, what is shared is made once and stays whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantpress.errors import StageError
from quantpress.runtime import atomic, digests, locks

BEGIN = """
import sys, time
from pathlib import Path
from quantpress.runtime import atomic, console, digests, locks, ownership
from quantpress.runtime.worker import Job, Result, Worker
folder, number = Path(sys.argv[1]), int(sys.argv[2])
(folder / f"ready-{number}").touch()
while len(list(folder.glob("ready-*"))) < 3: time.sleep(0.005)
"""


def at_once(code: str, folder: Path) -> list[str]:
    """What three processes print that begin at the same moment; each must come to its end."""
    words = [[sys.executable, "-c", BEGIN + code, str(folder), str(number)] for number in range(3)]
    env = os.environ | {"QUANTPRESS_CACHE": str(folder / "cache")}
    runs = [
        subprocess.Popen(word, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) for word in words
    ]
    said = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    return sorted(out.strip() for out, _ in said)


def test_an_answer_is_asked_for_once(tmp_path: Path) -> None:
    code = """
class Asked(Worker):
    def run(self, job, folder, title, log):
        print("asked"); time.sleep(0.3)
        return Result(note="answer")
print(Asked("m", Job, Result).answer(folder / "kept.json", Job(), "asking").note)
"""
    assert at_once(code, tmp_path) == ["answer", "answer", "asked\nanswer"]


def test_digests_are_remembered_by_several(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"file-{number}").write_text(str(number))
    code = """
paths = sorted(folder.glob("file-*"))
for _ in range(20):
    for path in paths[number::3] + paths: assert digests.cached_sha256([path], folder / "c.json")[path]
"""
    at_once(code, tmp_path)
    path = tmp_path / "file-0"
    assert atomic.read_kept(tmp_path / "c.json")
    assert digests.cached_sha256([path], tmp_path / "c.json") == {path: digests.sha256_file(path)}


def test_one_of_several_writes_an_artifact_and_the_others_are_told(tmp_path: Path) -> None:
    code = """
from quantpress.errors import StageError
try:
    with locks.lock(folder / "artifact"), atomic.staging(folder / "artifact") as staged:
        time.sleep(0.5)
        (staged / "manifest.json").write_text('{"files": {}}')
        ours = lambda old: ownership.strangers_beside(old, "manifest.json")
        atomic.publish(staged, folder / "artifact", ours)
        print("written")
except StageError as error:
    print("is being written" in error.message)
"""
    assert at_once(code, tmp_path) == ["True", "True", "written"]
    assert json.loads((tmp_path / "artifact" / "manifest.json").read_text()) == {"files": {}}


def test_jobs_of_one_name_have_a_folder_each(tmp_path: Path) -> None:
    """Two benches of one model ask transformers for the same likelihoods at once."""
    code = """
with atomic.staging(folder / "likelihoods-job") as staged:
    (staged / "mine").write_text(str(number))
    time.sleep(0.3)
    print((staged / "mine").read_text() == str(number))
"""
    assert at_once(code, tmp_path) == ["True", "True", "True"]
    assert not list(tmp_path.glob(".likelihoods-job*"))


def test_those_who_use_a_folder_do_not_wait_for_each_other(tmp_path: Path) -> None:
    code = """
with locks.using(folder / "model"):
    (folder / f"in-{number}").touch()
    while len(list(folder.glob("in-*"))) < 3: time.sleep(0.005)
print("together")
"""
    assert at_once(code, tmp_path) == ["together"] * 3
    with locks.using(tmp_path / "model"), pytest.raises(StageError), locks.lock(tmp_path / "model"):
        pass
