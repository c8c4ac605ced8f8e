"""The counter-based generator against Python integers, and its statistics at fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from azeotrope.maths import hashrng

MASK = (1 << 64) - 1
GOLDEN, MIX1, MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
EDGE = (0, 1, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF, -987654321987654321)


def reference_mix(x: int) -> int:
    """SplitMix64's finalizer on unsigned Python integers."""
    x &= MASK
    x = ((x ^ (x >> 30)) * MIX1) & MASK
    x = ((x ^ (x >> 27)) * MIX2) & MASK
    return x ^ (x >> 31)


def unmix(x: int) -> int:
    """The inverse of the finalizer."""

    def unshift(value: int, bits: int) -> int:
        out = value
        for _ in range(64 // bits + 1):
            out = value ^ (out >> bits)
        return out

    x = (unshift(x, 31) * pow(MIX2, -1, 1 << 64)) & MASK
    x = (unshift(x, 27) * pow(MIX1, -1, 1 << 64)) & MASK
    return unshift(x, 30)


def signed(x: int) -> int:
    x &= MASK
    return x - (1 << 64) if x >> 63 else x


def test_mix_is_splitmix64() -> None:
    rng = np.random.default_rng(0)
    values = [*EDGE, *(int(v) for v in rng.integers(-(2**63), 2**63 - 1, 500))]
    ours = hashrng.mix(torch.tensor(values, dtype=torch.int64))
    assert [v & MASK for v in ours.tolist()] == [reference_mix(v) for v in values]


def test_published_vectors() -> None:
    """The first outputs of SplitMix64 from seed 1234567 (Vigna's reference implementation)."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    state = torch.tensor([signed(1234567 + GOLDEN * (i + 1)) for i in range(3)])
    assert [v & MASK for v in hashrng.mix(state).tolist()] == published


def test_row_keys_and_uniforms_wrap() -> None:
    for stream, step in ((0, 0), (11, 3), (22, 100_000)):
        keys = hashrng.row_keys(torch.tensor(EDGE), stream, step)
        expected = [reference_mix(reference_mix(s + GOLDEN * (stream + 1)) + GOLDEN * (step + 1)) for s in EDGE]
        assert [k & MASK for k in keys.tolist()] == expected
        got = hashrng.uniforms(keys, 7)
        for i, key in enumerate(expected):
            for j in range(7):
                word = reference_mix(key + GOLDEN * (j + 1))
                assert got[i, j].item() == pytest.approx(word / 2**64, abs=2**-52)


@pytest.mark.parametrize("word", [0, MASK, 1 << 63, MASK >> 1])
def test_uniforms_stay_inside_the_open_interval(word: int) -> None:
    """Even for the extreme words: 1.0 would pick a token of probability zero, 0.0 would give log(0)."""
    key = signed(unmix(word) - GOLDEN)
    value = hashrng.uniforms(torch.tensor([key]), 1).item()
    assert 0.0 < value < 1.0
    assert torch.isfinite(hashrng.normals(torch.tensor([key]), 2)).all()


def test_uniforms_are_uniform() -> None:
    seeds = torch.arange(400)
    for axis in ("rows", "steps", "streams", "indices"):
        if axis == "rows":
            u = hashrng.uniforms(hashrng.row_keys(torch.arange(40_000), 0, 0), 1)
        elif axis == "steps":
            u = torch.cat([hashrng.uniforms(hashrng.row_keys(seeds, 0, t), 1) for t in range(100)])
        elif axis == "streams":
            u = torch.cat([hashrng.uniforms(hashrng.row_keys(seeds, s, 0), 1) for s in range(100)])
        else:
            u = hashrng.uniforms(hashrng.row_keys(seeds[:1], 0, 0), 40_000)
        flat = u.flatten().numpy()
        assert stats.kstest(flat, "uniform").pvalue > 1e-3, axis
        counts = np.histogram(flat, bins=256, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > 1e-3, axis


def test_streams_steps_rows_and_indices_are_uncorrelated() -> None:
    n = 20_000
    seeds = torch.arange(n)
    base = hashrng.uniforms(hashrng.row_keys(seeds, 0, 0), 2)
    others = {
        "next index": base[:, 1],
        "next step": hashrng.uniforms(hashrng.row_keys(seeds, 0, 1), 1)[:, 0],
        "next stream": hashrng.uniforms(hashrng.row_keys(seeds, 1, 0), 1)[:, 0],
        "next row": hashrng.uniforms(hashrng.row_keys(seeds + 1, 0, 0), 1)[:, 0],
    }
    for name, other in others.items():
        r = np.corrcoef(base[:, 0], other)[0, 1]
        assert abs(r) < 4 / n**0.5, name
    keys = {int(k) for s in range(20) for t in range(50) for k in hashrng.row_keys(seeds[:20], s, t)}
    assert len(keys) == 20 * 50 * 20, "streams, steps and rows share a key"


def test_normals_are_normal() -> None:
    for n in (1, 2, 7, 64):
        x = hashrng.normals(hashrng.row_keys(torch.arange(30_000 // n), 21, 4), n)
        assert x.shape == (30_000 // n, n)
        assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    x = hashrng.normals(hashrng.row_keys(torch.arange(20_000), 21, 4), 2).numpy()
    assert abs(np.corrcoef(x.T)[0, 1]) < 4 / 20_000**0.5
    assert abs(np.corrcoef((x**2).T)[0, 1]) < 5 / 20_000**0.5


def test_signs_are_fair() -> None:
    s = hashrng.signs(hashrng.row_keys(torch.arange(200), 12, 0), 200)
    assert set(s.unique().tolist()) == {-1.0, 1.0}
    assert abs(s.sum().item()) < 4 * 200


def test_permutations_are_uniform_permutations() -> None:
    keys = hashrng.row_keys(torch.arange(24_000), 11, 0)
    p = hashrng.permutations(keys, 4)
    assert (p.sort(-1).values == torch.arange(4)).all()
    codes = (p * torch.tensor([64, 16, 4, 1])).sum(-1).numpy()
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    big = hashrng.permutations(keys[:50], 1024)
    assert (big.sort(-1).values == torch.arange(1024)).all()


def test_a_row_does_not_depend_on_its_batch() -> None:
    seeds = torch.tensor(EDGE)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    keys = hashrng.row_keys(seeds, 3, 9)
    assert torch.equal(hashrng.row_keys(seeds[order], 3, 9), keys[order])
    for draw in (hashrng.uniforms, hashrng.normals, hashrng.permutations, hashrng.signs):
        whole = draw(keys, 33)
        assert torch.equal(draw(keys[order], 33), whole[order])
        for i in range(len(seeds)):
            assert torch.equal(draw(keys[i : i + 1], 33), whole[i : i + 1])
    assert torch.equal(hashrng.uniforms(keys, 5), hashrng.uniforms(keys, 33)[:, :5]), "not a prefix"
