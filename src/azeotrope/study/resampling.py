"""What is resampled as one independent unit: a (base, draw) pair, a base with all its draws, or a draw.

Pairs of the same base share that base's peculiarities. Where bases differ much more than draws, treating the
pairs as independent makes intervals too narrow (coverage of a nominal 95 % interval .81 instead of .98 in a
simulation with 4 bases x 3 draws, base SD .1, residual SD .03); `unit: base` is the conservative choice, and
wider (about twice, there; by a third where bases do not differ). All students of a draw learn from one release:
`unit: draw` treats a release with all its students as one unit, and says what holds for releases to come.
"""

from __future__ import annotations

import numpy as np

from azeotrope.core.seeds import derive
from azeotrope.maths.stats import Floats, Weights, resample
from azeotrope.study.config import Study


def weights_for(study: Study, task: str, bases: int, draws: int, problems: int) -> Weights:
    """Return the weights for (draw · bases + base, problem) matrices; one stream per task.

    Every comparison on a task shares its resampled problems, whatever the number of students.
    """
    seed = derive(study.seed, "bootstrap", task)
    found = resample(units(study, bases, draws), problems, replicates=study.analysis.replicates, seed=seed)
    return Weights(spread(study, found.seeds, bases, draws), found.items)


def spread(study: Study, weights: Floats, bases: int, draws: int) -> Floats:
    """Spread weights per unit (R, units) over the seeds (R, draw · bases + base) that make up each unit."""
    if study.analysis.unit == "base":
        return np.tile(weights, (1, draws)) / draws
    return np.repeat(weights, bases, axis=1) / bases if study.analysis.unit == "draw" else weights


def teacher_weights(study: Study, task: str, problems: int, *, anew: bool) -> Weights:
    """Return the weights for the teacher's (draw, problem) matrices: draws resampled, t-stretched if made `anew`.

    Where the same model answers in every draw, draws differ by sampling noise, which the problems carry. Where a
    draw makes it anew (a trained map), draws are units of their own.
    """
    return resample(
        study.draws_of(task),
        problems,
        replicates=study.analysis.replicates,
        seed=derive(study.seed, "bootstrap", task),
        calibrate=anew,
    )


def per_unit(study: Study, values: Floats, bases: int) -> Floats:
    """Average scalars per seed (S, 1) within each independent unit."""
    if study.analysis.unit == "pair":
        return np.asarray(values.ravel(), dtype=np.float64)
    axis = 0 if study.analysis.unit == "base" else 1
    return np.asarray(values.reshape(-1, bases).mean(axis=axis), dtype=np.float64)


def units(study: Study, bases: int, draws: int) -> int:
    """The number of independent units, reported as `n_seeds`."""
    return {"pair": bases * draws, "base": bases, "draw": draws}[study.analysis.unit]
