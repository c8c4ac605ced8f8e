"""The gateway's benchmark: its bookkeeping, without its servers."""

from __future__ import annotations

import os
import subprocess
import sys

import gateway_overhead as benchmark


def test_processor_time_is_that_of_a_process_and_all_below_it() -> None:
    inner = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ntime.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    started = subprocess.Popen([sys.executable, "-c", outer], start_new_session=True)
    try:
        server = benchmark.Server("x", "", started.pid)
        while server.cpu() < 0.3:
            assert started.poll() is None
        assert len(benchmark.tree(started.pid)) == 2
        assert server.resident() > 1
    finally:
        os.killpg(started.pid, 9)
        started.wait()


def test_the_table_has_a_column_for_every_server() -> None:
    figures = [
        benchmark._figure("a", "request", "ms", [1.0, 2.0, 3.0]),
        benchmark._figure("b", "request", "ms", [4.0]),
        benchmark._figure("b", "chunk", "µs", [5.0]),
    ]
    text = benchmark.markdown(figures, [(0, 100.0), (1000, 101.4)])
    assert "| | a | b |" in text
    assert "| request, ms | 2 [1.5, 2.5] | 4 [4, 4] |" in text
    assert "| chunk, µs |  | 5 [5, 5] |" in text
    assert "0: 100, 1,000: 101" in text
