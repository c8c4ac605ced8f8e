"""Recovery of logits from biased and partial replies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import extraction

V, D = 50, 6


def logits(rows: int = 1, seed: int = 0, dim: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dim is None:
        return 3.0 * torch.randn(rows, V, generator=generator, dtype=torch.float64)
    head = torch.randn(V, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64) @ head.T


def test_a_common_bias_cancels() -> None:
    z = logits()[0]
    top = int(z.argmax())
    for start in range(0, V, 4):
        asked = torch.tensor([i for i in range(start, min(V, start + 4)) if i != top] + [top])
        biased = z.clone()
        biased[asked] += 100.0
        shown = torch.log_softmax(biased, -1)
        found = extraction.relative(shown[asked], float(shown[top]))
        assert torch.allclose(found, z[asked] - z[top], atol=1e-9)
    assert extraction.queries_needed(V, 5) == math.ceil(49 / 4)
    with pytest.raises(ConfigError, match="at least 2"):
        extraction.queries_needed(V, 1)


@pytest.mark.parametrize("precise", [True, False])
def test_a_single_biased_log_probability(precise: bool) -> None:
    z = logits(seed=1)[0]
    expected = torch.log_softmax(z, -1)
    for token in range(0, V, 7):
        bias = float(-expected[token]) if precise else 30.0
        biased = z.clone()
        biased[token] += bias
        shown = torch.log_softmax(biased, -1)[token]
        found = extraction.unbiased(shown, bias)
        assert found.item() == pytest.approx(expected[token].item(), abs=1e-9 if precise else 1e-2)


@pytest.mark.parametrize("dim", [3, 6, 12])
def test_the_hidden_size_shows_in_the_spectrum(dim: int) -> None:
    noise = 1e-6 * torch.randn(40, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert extraction.hidden_size(logits(40, seed=2, dim=dim) + noise) == dim
    with pytest.raises(ConfigError, match="at least 4"):
        extraction.hidden_size(logits(2))


def test_few_values_determine_the_rest() -> None:
    basis, new = (x - x[:, :1] for x in (logits(D, seed=3, dim=D), logits(9, seed=4, dim=D)))
    ids = torch.arange(3, 3 + 2 * D, 2)
    assert torch.allclose(extraction.complete(new[:, ids], ids, basis), new, atol=1e-8)
    with pytest.raises(ConfigError, match="do not determine"):
        extraction.complete(new[:, :2], torch.arange(2), basis)


def test_the_gap_says_whether_there_is_one() -> None:
    noise = 1e-6 * torch.randn(40, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rank, gap = extraction.rank_gap(logits(40, seed=2, dim=D) + noise)
    values = extraction.singular_values(logits(40, seed=2, dim=D) + noise)
    assert (rank, gap) == (D, pytest.approx(float(values[D - 1] / values[D]), rel=1e-9))
    assert gap > 1e5
    assert extraction.rank_gap(logits(40))[1] < 3
    assert extraction.rank_gap(torch.zeros(5, V))[1] == 1.0


def test_a_span_leaves_out_what_is_not_in_it() -> None:
    rows = logits(20, seed=2, dim=D)
    basis = extraction.span(rows, D)
    assert torch.allclose(basis @ basis.T, torch.eye(D, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(rows @ basis.T @ basis, rows, atol=1e-10)


@pytest.mark.parametrize("n", [D, D + 3, 3 * D])
def test_telling_tokens_are_well_conditioned(n: int) -> None:
    """In a space that most tokens say little about, those that do are found; random ones do worse."""
    head = torch.randn(D, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    head[1:, : V - 2 * D] = 1e-9 * head[1:, : V - 2 * D]  # all but the last 2D tokens are of one direction
    basis = extraction.span(head, D)
    ids = extraction.telling(basis, n, seed=7)
    assert len(set(ids.tolist())) == n
    assert ids.tolist() == sorted(ids.tolist())
    assert torch.equal(ids, extraction.telling(basis, n, seed=7))
    assert torch.linalg.cond(basis[:, ids]) < 100
    assert torch.linalg.cond(basis[:, :n]) > 1e6
    with pytest.raises(ConfigError, match="cannot be chosen"):
        extraction.telling(basis, V + 1)
