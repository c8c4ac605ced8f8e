"""CMI as an objective: its gradient is that of the estimate, and training moves what it says on held-out text."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import cmi
from azeotrope.models.cluster import Clusters
from azeotrope.models.corpus import read
from azeotrope.models.learnable import learnable
from models.learning_drive import DOUBLE, QUICK, along, corpus, learn, models, shake, slope
from tiny import toy_traces

POWERS = (0.25, 1.0, 2.0)


def plug_in(logits_NV: Tensor, labels_N: Tensor, alpha: float, least: int) -> Tensor:
    """CMI of P^(α) with centroids that depend on the logits, by loops over classes and samples."""
    names = labels_N.tolist()
    total, n = logits_NV.new_zeros(()), 0
    for label in set(names):
        index = [i for i, name in enumerate(names) if name == label]
        if len(index) < least:
            continue
        raised = torch.softmax(logits_NV[index], -1) ** alpha
        probs = raised / raised.sum(-1, keepdim=True)
        center = probs.mean(0)
        for row in probs:
            total = total + (row * (row / center).log()).sum()
        n += len(index)
    return total / n


@pytest.mark.parametrize("rank", [0, 3])
def test_value_and_gradient_are_those_of_the_estimate(rank: int) -> None:
    """At the means the centroids' own dependence cancels, so holding them loses nothing."""
    teacher, found = corpus(16, DOUBLE)
    objective = Clusters(found, learnable(teacher, rank, 1, DOUBLE), sign=1.0, powers=POWERS, draws=3, least=4)
    shake(objective)
    objective.begin(0)
    chosen = list(found.training)
    rows = found.rows(chosen)

    def estimate() -> Tensor:
        moved = objective.moved(rows)
        values = [plug_in(moved, found.labels_N[rows], alpha, 4) for alpha in POWERS]
        return torch.stack(values).mean()

    parameters = objective.head.parameters
    value = objective.measure(chosen, rows, objective.moved(rows))
    with torch.no_grad():
        assert value.item() == pytest.approx(estimate().item(), rel=1e-9)
    got = along(value, parameters)
    assert got == pytest.approx(along(estimate(), parameters), rel=1e-7)
    assert got == pytest.approx(slope(estimate, parameters), rel=1e-5)
    with torch.no_grad():
        one = cmi.information(objective.moved(rows), found.labels_N[rows], temperature=0.5, least=4)
        alone = objective.spread(rows, objective.moved(rows), (2.0,), objective.tables)
    assert alone.item() == pytest.approx(one.cmi, rel=1e-9)


def test_classes_are_frequent_tokens_of_the_training_text() -> None:
    teacher, found = corpus(16)
    objective = Clusters(found, learnable(teacher, 0, 1), sign=1.0, least=9)
    counted = torch.bincount(found.labels_N[found.rows(found.training)], minlength=67)
    assert objective.classes_C.tolist() == [i for i in range(67) if counted[i] >= 9]
    for label, place in zip(found.labels_N.tolist(), objective.places_N.tolist(), strict=True):
        assert (objective.classes_C[place] == label) if place >= 0 else counted[label] < 9
    assert objective.report(found.rows(found.held_out), objective.head.edit())["classes"] == len(
        objective.classes_C
    )
    assert cmi.places(torch.tensor([3]), torch.tensor([], dtype=torch.long)).tolist() == [-1]


def test_the_cap_bounds_every_token() -> None:
    teacher, found = corpus(16)
    objective = Clusters(found, learnable(teacher, 0, 1), sign=-1.0, least=3, cap=0.4)
    objective.begin(0)
    shake(objective, 50.0)
    rows = found.rows(found.training)
    free = Clusters(found, objective.head, sign=-1.0, least=3)
    free.tables = objective.tables
    values = [o.measure(list(found.training), rows, o.moved(rows)).item() for o in (objective, free)]
    assert 0.2 < values[0] <= 0.4 + 1e-6 < values[1]
    assert math.isfinite(values[1])


def test_centroids_are_renewed_when_asked() -> None:
    teacher, found = corpus(16)
    objective = Clusters(found, learnable(teacher, 0, 1), sign=1.0, least=3, refresh=2)
    seen = []
    for epoch in range(4):
        shake(objective, seed=epoch)
        objective.begin(epoch)
        seen.append(objective.tables[1.0].dense())
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[1], seen[2])


def test_powers_are_drawn_from_the_grid_by_the_seed() -> None:
    teacher, found = corpus(16)

    def drawn(seed: int) -> list[list[float]]:
        objective = Clusters(found, learnable(teacher, 0, 1), sign=1.0, powers=POWERS, draws=2, least=3, seed=seed)
        objective.begin(0)
        seen: list[list[float]] = []
        inner = objective.spread

        def watch(rows: Tensor, moved: Tensor, powers: list[float], tables: dict[float, cmi.Centroids]) -> Tensor:
            seen.append(powers)
            return inner(rows, moved, powers, tables)

        objective.spread = watch  # type: ignore[assignment, method-assign]
        rows = found.rows([5])
        for _ in range(12):
            objective.measure([5], rows, objective.moved(rows))
        return seen

    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    assert {power for powers in first for power in powers} == set(POWERS)
    assert all(len(powers) == 2 for powers in first)


def test_information_falls_with_one_sign_and_rises_with_the_other() -> None:
    """On held-out tokens, both estimates, at every temperature for CMIM; against plain training as well."""
    teacher, proxies = models()
    found = read(teacher, proxies[:0], toy_traces(200))
    training = replace(QUICK, epochs=12, lr=0.01, batch_size=32)

    def trained(sign: float, lam: float, **more: object) -> dict[str, object]:
        objective = Clusters(found, learnable(teacher, 0, 1), sign=sign, least=10, **more)  # type: ignore[arg-type]
        return learn(objective, replace(training, lam=lam)).notes

    low = trained(1.0, 3.0, powers=POWERS, draws=2)
    high = trained(-1.0, 3.0, cap=5.0)
    plain = trained(1.0, 0.0)
    for name in ("cmi", "cmi_loo"):
        before, lower, higher, control = (
            float(notes[f"{name}_{when}"])  # type: ignore[arg-type]
            for notes, when in ((low, "before"), (low, "after"), (high, "after"), (plain, "after"))
        )
        assert lower < 0.8 * before
        assert lower < 0.9 * control
        assert higher > 1.1 * before
        assert higher > 1.1 * control
    swept = low["cmi_sweep"]
    assert [row["temperature"] for row in swept] == list(cmi.TEMPERATURES)  # type: ignore[attr-defined]
    assert all(row["cmi_after"] < row["cmi_before"] for row in swept)  # type: ignore[attr-defined]
    assert swept[1]["cmi_after"] == pytest.approx(low["cmi_after"])  # type: ignore[index]


def test_too_little_text_is_named() -> None:
    teacher, found = corpus(8)
    with pytest.raises(ConfigError, match="No token occurs 500 times in the 6 training traces"):
        Clusters(found, learnable(teacher, 0, 1), sign=1.0, least=500)
    proxies = models()[1]
    split = [replace(t, text="xyz"[i > 0] * 5, finished=False) for i, t in enumerate(toy_traces(4))]
    with pytest.raises(ConfigError, match="no token of any class"):
        Clusters(read(teacher, proxies, split), learnable(teacher, 0, 1), sign=1.0, least=5)
