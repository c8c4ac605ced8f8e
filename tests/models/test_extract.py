"""Logits read from a real server that shows a few log-probabilities, and what it may do about that.

Reference is the model's own logits, relative to the same token. N prompts, V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.types import Problem
from azeotrope.maths.extraction import queries_needed
from azeotrope.models.endpoint import Endpoint, parse_ref
from azeotrope.models.extract import Extracted, Extraction, extract
from azeotrope.models.extract_tokens import Vocabulary
from azeotrope.models.lm import LM
from logit_server import LogitServer
from serving import Served
from tiny import VOCAB, FakeTokenizer, tiny

HIDDEN = 8
KEY = "sk-secret-0123456789abcdef"

Run = Callable[..., Extracted]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Extract from a server; all runs of a test share one cache and, per server, one address."""
    with ExitStack() as stack:
        served: dict[int, Served] = {}

        def extracted(server: LogitServer, n: int = 1, api: str = "completions", **more: Any) -> Extracted:
            if id(server) not in served:
                served[id(server)] = stack.enter_context(Served(server))
            ref = f"{served[id(server)].url}#model"
            endpoint = Endpoint(parse_ref(ref, api=api, cache=tmp_path / "c.sqlite", retries=0))
            return extract(endpoint, Vocabulary(server.lm.tokenizer), prompts(n), Extraction(**more))

        yield extracted


def model(tokenizer: FakeTokenizer | None = None) -> LM:
    found = tiny("llama", hidden=HIDDEN, dtype=torch.float64)
    return found if tokenizer is None else LM(found.model, tokenizer, found.ref, found.revision)


def prompts(n: int) -> list[Problem]:
    return [Problem(id=f"p{i}", task="", prompt=f"prompt {i} {i * i}", answer="") for i in range(n)]


def errors(found: Extracted, server: LogitServer) -> Tensor:
    """|found − true| in nats, [N, V], NaN where nothing was found."""
    true_NV = torch.stack([server.logits(problem.prompt) for problem in prompts(len(found.logits_NV))])
    return (found.logits_NV - (true_NV - true_NV[:, [found.reference]])).abs()


def purposes(found: Extracted) -> dict[str, int]:
    return dict(found.asker.queries)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(("k", "dtype", "tolerance"), [(5, torch.float64, 1e-12), (20, torch.float32, 3e-5)])
def test_top_k_and_a_bias_give_all_logits(
    run: Run, api: str, k: int, dtype: torch.dtype, tolerance: float
) -> None:
    server = LogitServer(model(), most=20, dtype=dtype)
    found = run(server, 2, api, k=k, checks=3)
    assert errors(found, server).max() < tolerance
    assert purposes(found) == {"probe": 2, "whole": 2 * queries_needed(VOCAB, k), "check": 3}
    assert (found.method, found.k, found.whole, found.completed) == ("shared", k, 2, 0)
    assert found.again == 3 * (k - 1)
    assert found.changes[0] is not None
    assert found.changes[0] < 2 * tolerance
    assert found.asked_NV.all()


def test_everything_sent_and_received_is_counted(run: Run) -> None:
    server = LogitServer(model())
    found = run(server, 2)
    (prompt_tokens,) = {len(server.lm.encode(problem.prompt)) for problem in prompts(2)}
    said = found.summary()
    assert said["queries"] == sum(said["queries_by_purpose"].values()) == said["completion_tokens"]
    assert said["prompt_tokens"] == said["queries"] * prompt_tokens
    assert found.asker.endpoint.ledger()["requests"] == said["queries"]
    assert (said["covered"], said["vocabulary"], said["replies_without_usage"]) == (VOCAB, VOCAB, 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_a_single_log_probability_is_enough(run: Run, dtype: torch.dtype, tolerance: float) -> None:
    server = LogitServer(model(), most=1, dtype=dtype)
    found = run(server, 2, k=1, checks=4)
    assert found.method == "single"
    assert errors(found, server).max() < tolerance
    assert purposes(found)["whole"] < 2 * 3 * VOCAB, "two or three biases a token"


def test_log_probabilities_that_ignore_the_bias_are_read_off_the_token_that_is_forced(run: Run) -> None:
    server = LogitServer(model(), bias="raw")
    found = run(server, checks=1)
    assert (found.method, purposes(found)["whole"]) == ("sampled", VOCAB + 1), "one for each, one without a bias"
    assert errors(found, server).max() < 1e-12


@pytest.mark.parametrize("strips", [False, True])
def test_text_alone_gives_logits_by_bisection(run: Run, strips: bool) -> None:
    server = LogitServer(model(Spaced(VOCAB)), shows=False, strips=strips)
    found = run(server, method="argmax", resolution=1.0, checks=0)
    known = found.logits_NV.isfinite()
    unknown = (~known[0]).nonzero()[:, 0].tolist()
    top = int(server.logits(prompts(1)[0].prompt).argmax())
    # Stripped, a text does not say which token it is: the likeliest stays unknown, and what looks like it.
    decode = server.lm.tokenizer.decode
    assert decode([top]).startswith(" "), "the harder case: its stripped text is another token's"
    alike = [i for i in range(VOCAB) if decode([i]).strip() == decode([top]).strip()]
    assert unknown == (alike if strips else [])
    assert len(alike) == 2
    assert errors(found, server)[known].max() <= 1.0, "half the resolution, for the token and for the reference"
    assert purposes(found)["whole"] <= 2 + VOCAB * (2 + math.log2(100))


class Spaced(FakeTokenizer):
    """Every text twice, the first time after a space, as subword vocabularies have them."""

    def decode(self, ids: list[int], **_: object) -> str:
        half = (self.vocab + 1) // 2
        return "".join(f" {i}" if i < half else str(i % half) for i in ids)


class Bytes(FakeTokenizer):
    """Thirty tokens that are no text of their own."""

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join("\ufffd" if 30 <= i < 60 else f"<{i}>" for i in ids)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(("token_ids", "queries"), [(False, 30), (True, queries_needed(VOCAB, 5))])
def test_tokens_of_one_text_are_asked_for_apart_or_by_number(
    run: Run, api: str, token_ids: bool, queries: int
) -> None:
    server = LogitServer(model(Bytes(VOCAB)))
    found = run(server, 1, api, token_ids=token_ids)
    assert errors(found, server).max() < 1e-12, "none is missing and none is another"
    assert purposes(found)["whole"] == queries
    assert found.changes[0] is not None
    assert found.changes[0] < 1e-12


def test_a_text_that_several_tokens_have_is_not_believed_where_it_may_be_another(run: Run) -> None:
    """Under a small bias, what was not raised is shown too, and looks like what was."""
    server = LogitServer(model(Bytes(VOCAB)), most=20)
    for bias in (2.0, 5.0, 10.0, 20.0):
        found = run(server, 1, "chat", bias=bias, k=20, checks=0)
        known = found.logits_NV.isfinite()
        assert known.sum() > 20
        assert errors(found, server)[known].max() < 1e-12, bias


def test_the_hidden_size_shows_and_spares_queries(run: Run) -> None:
    server, n = LogitServer(model()), 16
    found = run(server, n)
    assert found.hidden_size == HIDDEN
    assert found.space is not None
    assert found.space.gap > 1e9
    assert found.space.error < 1e-10
    each = queries_needed(VOCAB, 5)
    few = math.ceil((HIDDEN + 2) / 4)
    assert (found.whole, found.completed) == (11, n - 11)
    assert purposes(found) == {"probe": 2, "whole": 11 * each, "completed": (n - 11) * few, "check": 8}
    assert found.saved == (n - 11) * (each - few) > 0
    assert errors(found, server).max() < 1e-9
    assert found.asked_NV[11:].sum(1).tolist() == [4 * few + 1] * (n - 11), "the others were never asked for"
    assert found.changes[1] is not None
    assert found.changes[1] < 1e-9
    plain = run(server, n, complete=False, checks=0)
    assert purposes(plain)["whole"] == n * each
    assert plain.hidden_size == HIDDEN


@pytest.mark.parametrize(("n", "digits"), [(HIDDEN, None), (14, 1)])
def test_nothing_is_completed_or_claimed_without_evidence(run: Run, n: int, digits: int | None) -> None:
    """Too few prompts, or log-probabilities too coarse to predict what was kept aside."""
    found = run(LogitServer(model(), digits=digits), n, checks=4)
    assert (found.whole, found.completed, found.hidden_size) == (n, 0, None)
    assert found.space is not None
    assert found.space.error > 0.01


def test_asking_again_shows_coarse_log_probabilities(run: Run) -> None:
    found = run(LogitServer(model(), digits=1))
    assert found.changes[0] is not None
    assert 0.05 < found.changes[0] < 0.21


# Defenses


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"shows": False}, "shows no log-probabilities; only the method 'argmax'"),
        ({"bias": "ignored"}, "ignores logit_bias: a token that was raised by 100 nats was not said"),
        ({"bias": "refused"}, "refuses logit_bias (it answered 400: logit_bias is not supported)."),
        ({"most": 3}, "refuses 5 log-probabilities (it answered 400: at most 3 logprobs); ask for fewer."),
        ({"most_bias": 20}, "refuses logit_bias (it answered 400: logit_bias must be within 20)"),
    ],
)
def test_a_server_that_holds_back_is_told_in_a_sentence(run: Run, server: dict[str, Any], words: str) -> None:
    with pytest.raises(RunError) as caught:
        run(LogitServer(model(), **server))
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    assert KEY not in str(caught.value)


def test_certainties_are_no_log_probabilities(run: Run) -> None:
    """A server that shows the distribution at temperature 0: the token that is said, and nothing else."""
    with pytest.raises(RunError, match=r"No logit could be read from the endpoint .* by the method 'single'"):
        run(LogitServer(model(), cold=True))


def test_bisection_notices_an_ignored_bias(run: Run) -> None:
    with pytest.raises(RunError, match="ignores logit_bias"):
        run(LogitServer(model(), shows=False, bias="ignored"), method="argmax")


def test_a_method_that_cannot_work_is_not_tried(run: Run) -> None:
    with pytest.raises(RunError, match="by the method 'sampled', not by 'shared'"):
        run(LogitServer(model(), bias="raw"), method="shared")
    server = LogitServer(model())
    found = run(server, method="single", checks=0)
    assert found.method == "single"
    assert errors(found, server).max() < 1e-9


def test_fewer_log_probabilities_than_asked_for(run: Run) -> None:
    """A server that shows three without saying so."""

    class Quiet(LogitServer):
        def _complaint(self, body: dict[str, Any]) -> str:
            body["logprobs"] = min(3, body["logprobs"])
            return super()._complaint(body)

    server = Quiet(model())
    found = run(server, checks=0)
    assert (found.k, purposes(found)["whole"]) == (3, queries_needed(VOCAB, 3))
    assert errors(found, server).max() < 1e-12


def test_a_small_bias_leaves_unlikely_tokens_out_and_says_so(run: Run) -> None:
    server = LogitServer(model())
    found = run(server, bias=2.0, checks=0)
    known = found.logits_NV.isfinite()
    assert 5 < known.sum() < VOCAB
    assert errors(found, server)[known].max() < 1e-12
    assert found.summary()["covered"] == int(known.sum())
    logits_V = server.logits(prompts(1)[0].prompt)
    assert logits_V[known[0]].min() > logits_V[~known[0]].max() - 2.0, "what is missing is what is unlikely"


def test_another_tokenizer_is_noticed(run: Run) -> None:
    class Other(FakeTokenizer):
        def decode(self, ids: list[int], **_: object) -> str:
            return "".join(f"other {i}" for i in ids)

    server = LogitServer(model())
    served = LogitServer(model(Other(VOCAB)))
    served.lm.tokenizer.encode = server.lm.tokenizer.encode
    with pytest.raises(ConfigError, match="name the teacher's own"):
        _mismatched(run, served)


def test_a_tokenizer_that_numbers_tokens_otherwise_is_noticed(run: Run) -> None:
    """Its names are the server's, its ids are not; half of them agree."""

    class Shuffled(FakeTokenizer):
        def get_vocab(self) -> dict[str, int]:
            return {self.decode([i]): i for i in range(VOCAB - 1)}

        def decode(self, ids: list[int], **_: object) -> str:
            return " ".join(str(i if i % 2 else 2 * (i * 7 % (VOCAB // 2))) for i in ids)

    with pytest.raises(ConfigError, match=r"or numbers otherwise; name the teacher's own"):
        _mismatched(run, LogitServer(model(), most=20), Shuffled(VOCAB))


def test_a_tokenizer_with_half_the_tokens_is_noticed(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"shows tokens \('\d+'.* that the tokenizer does not have"):
        _mismatched(run, LogitServer(model(), most=20), FakeTokenizer(VOCAB // 2))


def _mismatched(run: Run, server: LogitServer, tokenizer: FakeTokenizer | None = None) -> None:
    """The server names tokens by its tokenizer, the thief looks them up in another."""
    with Served(server) as served:
        endpoint = Endpoint(parse_ref(f"{served.url}#m", api="completions", key_env="", retries=0))
        extract(endpoint, Vocabulary(tokenizer or FakeTokenizer(VOCAB)), prompts(1), Extraction(k=server.most))


# Caps, failures, continuation


def test_a_cap_is_kept_and_what_was_read_is_right(run: Run) -> None:
    server = LogitServer(model())
    found = run(server, 3, max_queries=25)
    assert (found.capped, found.asker.total, found.whole) == (True, 25, 1)
    known = found.logits_NV.isfinite()
    assert known.shape == (2, VOCAB)
    assert known.sum(1).tolist() == [VOCAB, 1 + 6 * 4], "2 to look, 17 for the first prompt, 6 for the second"
    assert errors(found, server)[known].max() < 1e-12
    assert found.changes == (None, None)
    with pytest.raises(RunError, match="cap of 1 queries is reached before anything is read"):
        run(server, max_queries=1)


@pytest.mark.parametrize("method", ["single", "argmax"])
def test_a_cap_in_the_middle_of_a_search(run: Run, method: Any) -> None:
    server = LogitServer(model())
    cap = 60 if method == "single" else 100
    found = run(server, method=method, max_queries=cap, resolution=60.0)
    assert (found.capped, found.asker.total, found.whole) == (True, cap, 0)
    known = found.logits_NV.isfinite()
    assert 20 < known.sum() < VOCAB
    assert errors(found, server)[known].max() <= (1e-9 if method == "single" else 50.0)


def test_a_failure_keeps_what_was_paid_for(run: Run) -> None:
    server = LogitServer(model(), fail_after=12)
    with pytest.raises(RunError, match="out of order"):
        run(server)
    server.fail_after = None
    found = run(server)
    assert errors(found, server).max() < 1e-12
    requests = found.asker.endpoint.ledger()["requests"]
    assert requests == found.asker.total - 12, "the twelve are in the cache"
    again = run(server)
    assert again.asker.endpoint.ledger()["requests"] == 0
    assert again.asker.queries == Counter(found.asker.queries), "a query counts wherever its reply comes from"
    assert torch.equal(again.logits_NV, found.logits_NV)


def test_money_is_capped_by_the_endpoint(tmp_path: Path) -> None:
    with Served(LogitServer(model())) as served:
        ref = f"{served.url}#m?api=completions&max_requests=9&cache={tmp_path}/c.sqlite&retries=0"
        with pytest.raises(RunError, match="The cap max_requests=9 is reached"):
            extract(Endpoint(parse_ref(ref)), Vocabulary(FakeTokenizer(VOCAB)), prompts(1), Extraction())
        assert len(served.asked) == 9


def test_a_prompt_is_named_once(run: Run) -> None:
    endpoint = Endpoint(parse_ref("https://nobody.invalid/v1#m", key_env=""))
    for wrong in ([], prompts(1) * 2):
        with pytest.raises(ConfigError, match="each named once"):
            extract(endpoint, Vocabulary(FakeTokenizer(VOCAB)), wrong, Extraction())
