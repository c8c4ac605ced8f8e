"""What the paired statistics share: one weight per problem on both sides, intervals over problems."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from azeotrope.core.errors import ConfigError
from azeotrope.core.seeds import derive
from azeotrope.detect.base import Detector, Texts, shared_problems
from azeotrope.maths.detection import REPLICATES, Floats, problem_weights

FEWEST = 2  # one problem has no spread


class Paired(Detector):
    """A statistic of two versions of the same problems. A problem counts once, however many samples it has."""

    def problems(self, defended: Texts, clean: Texts) -> list[str]:
        """Return the shared problems. Raises ConfigError if there are fewer than two."""
        ids = shared_problems(defended, clean)
        if len(ids) < FEWEST:
            raise ConfigError(
                f"The detector '{self.kind}' needs at least {FEWEST} problems that both sides have; there "
                f"{'is' if len(ids) == 1 else 'are'} {len(ids) or 'none'}."
            )
        return ids

    def weights(self, n: int, seed: int) -> Floats:
        """Draw bootstrap weights of `n` problems; the same for every paired detector of one seed."""
        return problem_weights(np.zeros(n), REPLICATES, derive(seed, "paired"))


def mean_over_samples(ids: list[str], side: Texts, count: Callable[[str], float | tuple[float, ...]]) -> Floats:
    """Return, per problem, the mean of `count` (one number or several) over its samples."""
    return np.array([np.mean([count(text) for text in side[name]], axis=0) for name in ids], dtype=np.float64)
