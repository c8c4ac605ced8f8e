from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from study_fakes import FakeStages, digest, study

from azeotrope.core.errors import RunError
from azeotrope.study.allocator import VARIABLE, preloaded
from azeotrope.study.run import InterruptedRunError, run

DRIVE = Path(__file__).parent / "study_drive.py"
QUIET = Console(quiet=True)
TABLES = ("results.parquet", "samples.parquet", "equal_cost.parquet", "losses.parquet", "diffs.json")


def drive(runs: Path, workers: int, sleep: float, trouble: str = "") -> subprocess.Popen[str]:
    runs.mkdir(exist_ok=True)
    command = [sys.executable, str(DRIVE), str(runs), str(workers), str(sleep), trouble]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def done(runs: Path) -> int:
    return len(list((runs / "steps").glob("[!.]*/*/done.json")))


def wait_for(runs: Path, steps: int, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 60
    while done(runs) < steps:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


def _group_ends(group: int, patience: float = 5.0) -> bool:
    """Whether every process of a group is gone soon (the interpreter's own helper takes a moment)."""
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_repeated_it_ends_with_the_same_tables(tmp_path: Path, workers: int) -> None:
    whole = run(study(), runs=tmp_path / "whole", workers=0, stages=FakeStages(), console=QUIET)
    runs = tmp_path / "killed"
    process = drive(runs, workers, 0.15)
    wait_for(runs, 4, process)
    process.send_signal(signal.SIGKILL)  # the parent only: orphaned workers must end by themselves
    process.wait()
    assert _group_ends(process.pid)
    stored = done(runs)
    assert 4 <= stored < 21
    assert not (runs / "demo" / "manifest.json").exists()
    again = drive(runs, workers, 0.0)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert f"{stored} of 21 steps are stored already." in errors
    for name in TABLES:
        assert digest(runs / "demo" / name) == digest(whole / name), name
    assert not list((runs / "steps" / ".tmp").iterdir())


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_exits_with_130_and_keeps_finished_steps(tmp_path: Path, workers: int) -> None:
    process = drive(tmp_path / "runs", workers, 0.2)
    wait_for(tmp_path / "runs", 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole process group
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    assert 3 <= done(tmp_path / "runs") < 21
    assert not list((tmp_path / "runs" / "steps" / ".tmp").iterdir())
    assert _group_ends(process.pid)


@pytest.mark.parametrize(
    "phase", ["azeotrope.study.run.make_plan", "azeotrope.study.run.load_task", "azeotrope.study.run.write_json"]
)
def test_ctrl_c_while_planning_or_aggregating(tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(phase, interrupt)
        with pytest.raises(InterruptedRunError) as caught:
            run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    assert caught.value.exit_code == 130
    assert not (tmp_path / "demo" / "manifest.json").exists()
    run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)


def test_workers_get_their_thread_count_and_ours_is_restored(tmp_path: Path) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    log = tmp_path / "log"
    run(study(), runs=tmp_path, workers=2, threads=3, stages=FakeStages(log=str(log)), console=QUIET)
    assert {line.split()[1] for line in log.read_text().splitlines()} == {"3"}
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_workers_get_the_allocator_and_we_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ.get("LD_PRELOAD")
    monkeypatch.setattr("azeotrope.study.executor.preloaded", lambda: "libm.so.6")
    log = tmp_path / "log"
    run(study(), runs=tmp_path, workers=2, stages=FakeStages(log=str(log)), console=QUIET)
    assert {line.split()[2] for line in log.read_text().splitlines()} == {"libm.so.6"}
    assert os.environ.get("LD_PRELOAD") == before


@pytest.mark.parametrize(
    ("platform", "there", "wish", "given", "wanted"),
    [
        ("linux", {"tcmalloc_minimal": "libtcmalloc_minimal.so.4"}, "", "", "libtcmalloc_minimal.so.4"),
        ("linux", {"mimalloc": "libmimalloc.so.2"}, "", "libx.so", "libmimalloc.so.2:libx.so"),
        ("linux", {}, "", "", None),
        ("linux", {}, "liba.so", "", "liba.so"),
        ("linux", {"tcmalloc": "libtcmalloc.so.4"}, "system", "", None),
        ("linux", {"tcmalloc": "libtcmalloc.so.4"}, "", "libjemalloc.so.2", None),
        ("darwin", {"tcmalloc": "libtcmalloc.so.4"}, "", "", None),
    ],
)
def test_which_allocator_is_preloaded(
    platform: str,
    there: dict[str, str],
    wish: str,
    given: str,
    wanted: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("ctypes.util.find_library", there.get)
    monkeypatch.setenv(VARIABLE, wish)
    monkeypatch.setenv("LD_PRELOAD", given)
    assert preloaded() == wanted


def test_workers_do_not_change_the_numbers(tmp_path: Path) -> None:
    one = run(study(), runs=tmp_path / "a", workers=0, stages=FakeStages(), console=QUIET)
    two = run(study(), runs=tmp_path / "b", workers=2, stages=FakeStages(), console=QUIET)
    for name in TABLES:
        assert digest(one / name) == digest(two / name), name


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_names_the_step_and_keeps_the_rest(tmp_path: Path, workers: int) -> None:
    with pytest.raises(RunError) as caught:
        run(study(), runs=tmp_path, workers=workers, stages=FakeStages(trouble="raise:attack"), console=QUIET)
    message = str(caught.value)
    assert "The step 'attack · facts · " in message
    assert "ZeroDivisionError: seventeen" in message
    assert "\n" not in message
    assert "second line" in (tmp_path / "demo" / "error.txt").read_text()
    assert done(tmp_path) >= 1
    folder = run(study(), runs=tmp_path, workers=workers, stages=FakeStages(), console=QUIET)
    assert not (folder / "error.txt").exists()


def test_a_dying_worker_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"'attack · .* ended unexpectedly with exit code 9"):
        run(study(), runs=tmp_path, workers=1, stages=FakeStages(trouble="die:attack"), console=QUIET)
    assert done(tmp_path) == 2
    assert not list((tmp_path / "steps" / ".tmp").iterdir())


@pytest.mark.parametrize("workers", [0, 1])
def test_full_disk_in_a_step(tmp_path: Path, workers: int) -> None:
    with pytest.raises(RunError, match=r"'release · .* failed: The disk is full"):
        run(study(), runs=tmp_path, workers=workers, stages=FakeStages(trouble="full:release"), console=QUIET)
    assert not (tmp_path / "demo" / "error.txt").exists()
    assert not list((tmp_path / "steps" / ".tmp").iterdir())


def test_a_step_without_done_is_redone_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    folder = run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    before = digest(folder / "results.parquet")
    steps = sorted((tmp_path / "steps" / "attack").iterdir())
    (steps[0] / "done.json").unlink()
    (steps[0] / "samples.parquet").write_bytes(b"PAR1 nonsense")
    run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    assert digest(folder / "results.parquet") == before
    damaged = steps[1] / "samples.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(RunError, match=rf"samples\.parquet is damaged.*{steps[1].name}"):
        run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)


def test_a_step_that_measured_other_problems_is_refused(tmp_path: Path) -> None:
    run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    path = next((tmp_path / "steps" / "attack").glob("*/samples.parquet"))
    pl.read_parquet(path).slice(1).write_parquet(path)
    with pytest.raises(RunError, match="does not hold each of the 40 test problems"):
        run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)


def test_progress_on_a_terminal_and_in_a_log(tmp_path: Path) -> None:
    log = Console(record=True, width=200, force_terminal=False)
    run(study(), runs=tmp_path / "a", workers=0, stages=FakeStages(), console=log)
    lines = log.export_text().splitlines()
    assert lines[0].startswith("[1/21] undistilled · facts · embedded/student: 0 s, about ")
    terminal = Console(record=True, width=200, force_terminal=True)
    run(study(), runs=tmp_path / "b", workers=0, stages=FakeStages(sleep=0.01), console=terminal)
    assert "[21/21]" in terminal.export_text()
