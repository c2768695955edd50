"""How long a request takes, for estimates, refusals and the size of batches."""

from __future__ import annotations


class LatencyEstimator:
    """A moving average of the seconds a request takes, its batch's time divided by the batch's size.

    A batch of n counts like n single requests. Needs the engine's lock.
    """

    def __init__(self, max_wait_fraction: float = 1.0) -> None:
        self.seconds: float | None = None
        self._max_wait_fraction = max_wait_fraction

    def expected(self, ahead: int) -> float | None:
        """Seconds until the answer to a request behind ``ahead`` others; None before the first
        measurement."""
        return None if self.seconds is None else (ahead + 1) * self.seconds

    def wait(self, ahead: int) -> float:
        """Seconds until ``ahead`` requests are answered."""
        return ahead * (self.seconds or 1.0)

    def too_late(self, ahead: int, left: float, count: int = 1) -> bool:
        """Whether ``count`` requests behind ``ahead`` others would complete too close to their deadline in
        ``left`` seconds. False with none ahead: only a computation can correct a wrong estimate."""
        if self.seconds is None or not ahead:
            return False
        return (ahead + count) * self.seconds > self._max_wait_fraction * left

    def record(self, count: int, seconds: float) -> None:
        """``count`` requests were computed together in ``seconds``."""
        spent, keep = seconds / count, 0.8**count
        self.seconds = spent if self.seconds is None else keep * self.seconds + (1 - keep) * spent

    def batch_size_for(self, seconds: float, most: int) -> int:
        """How many requests, 1 to ``most``, should complete in ``seconds``."""
        if not self.seconds or seconds >= most * self.seconds:
            return most
        return max(1, int(seconds / self.seconds))
