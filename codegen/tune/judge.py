"""Judging measurements: ratios of a candidate's seconds to those of the template's own tiling in the same round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, ldexp
from statistics import median


@dataclass(frozen=True, slots=True)
class Rule:
    """When a candidate is given up and when it is taken; gains are fractions of the own tiling's time."""

    least_gain: float = 0.015
    chance: float = 0.0005
    """Most probability that a candidate which is no faster wins as many rounds (sign test)."""
    hopeless: float = 1.02
    """Median ratio beyond which a candidate is given up after the first rounds."""
    batch: int = 8
    """Least rounds between two decisions."""
    batch_seconds: float = 0.1
    """Rounds between two decisions last about so long, where that is more: short kernels are noisy, and cheap."""
    most_rounds: int = 64
    batches: int = 5

    def rounds(self, round_seconds: float) -> int:
        """Rounds until the next decision, of so many seconds each."""
        return max(self.batch, min(self.most_rounds, int(self.batch_seconds / max(round_seconds, 1e-9))))

    def gives_up(self, ratios: Sequence[float]) -> bool:
        """Whether more rounds are not worth their time: clearly slower at first, later no gain in sight."""
        limit = self.hopeless if len(ratios) <= self.batch else 1.0 - self.least_gain / 2
        return median(ratios) > limit

    def takes(self, ratios: Sequence[float]) -> bool:
        """Whether the gain is beyond the noise: in both halves of at least three batches, and by a sign test."""
        if len(ratios) < 3 * self.batch:
            return False
        half = len(ratios) // 2
        steady = all(median(part) <= 1.0 - self.least_gain for part in (ratios[:half], ratios[half:]))
        return steady and sign_test(sum(r < 1.0 for r in ratios), len(ratios)) <= self.chance


def sign_test(wins: int, rounds: int) -> float:
    """The probability of at least so many wins in fair rounds."""
    return ldexp(sum(comb(rounds, k) for k in range(wins, rounds + 1)), -rounds)
