from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from azeotrope.core.errors import RunError
from azeotrope.study.store import Store, read_json, read_parquet, run_lock, write_json, write_parquet

FRAME = pl.DataFrame({"a": list(range(500)), "b": [str(i) for i in range(500)]})


def test_a_step_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.begin("release", "x")
    write_parquet(FRAME, folder / "t.parquet")
    assert not store.done("release", "x")
    assert not store.folder("release", "x").exists()
    store.finish(folder, "release", "x", {"seconds": 1})
    assert store.done("release", "x")
    assert read_parquet(store.folder("release", "x") / "t.parquet").equals(FRAME)
    assert store.records("release") == [{"seconds": 1}]
    assert not list((tmp_path / "steps" / ".tmp").iterdir())


def test_a_folder_without_done_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    broken = store.folder("release", "x")
    broken.mkdir(parents=True)
    (broken / "junk").touch()
    store.finish(store.begin("release", "x"), "release", "x", {})
    assert [path.name for path in broken.iterdir()] == ["done.json"]


def test_the_first_of_two_processes_to_finish_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.finish(store.begin("release", "x"), "release", "x", {"who": "first"})
    store.finish(store.begin("release", "x"), "release", "x", {"who": "second"})
    assert store.records("release") == [{"who": "first"}]
    assert not list((tmp_path / "steps" / ".tmp").iterdir())


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    gone, mine = (tmp_path / "steps" / ".tmp" / f"release-x.{pid}" for pid in (dead, os.getpid()))
    gone.mkdir(parents=True)
    mine.mkdir()
    store.clean()
    assert not gone.exists()
    assert mine.exists()


@pytest.mark.parametrize("keep", [0, 3, 40, 1000, -7])
def test_damaged_parquet_names_the_file_and_the_folder_to_delete(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "abc" / "samples.parquet"
    path.parent.mkdir()
    write_parquet(FRAME, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"samples\.parquet is damaged.*delete the folder .*abc"):
        read_parquet(path)


def test_missing_and_damaged_json(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"info\.json is missing; delete the folder"):
        read_json(tmp_path / "info.json")
    (tmp_path / "info.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        read_json(tmp_path / "info.json")


def test_equal_tables_are_equal_files(tmp_path: Path) -> None:
    write_parquet(FRAME, tmp_path / "a")
    write_parquet(FRAME.clone(), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_full_disk_keeps_the_old_file_and_leaves_no_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "a.json", {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="disk is full"):
        write_json(tmp_path / "a.json", {"new": 1})
    monkeypatch.undo()
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Cannot write"):
        write_json(tmp_path / "file" / "a.json", {})


def test_second_process_on_a_run_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from azeotrope.study.store import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        message = rf"in use by another process \(pid {other.pid}\)"
        with pytest.raises(RunError, match=message), run_lock(tmp_path):
            pass
        other.kill()
        other.wait()
    with run_lock(tmp_path):  # a killed holder does not block
        pass
