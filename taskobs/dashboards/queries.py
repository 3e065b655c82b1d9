"""Queries of PromQL that several panels ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from taskobs.dashboards import names

JOB: Final = 'job=~"$job"'
OF_QUEUE: Final = f'{JOB}, {names.QUEUE}=~"$queue"'
PROCESS_LOST: Final = f'{names.REASON}=~"signal|error"'
"""The reasons for which a pool process ends without anybody wanting it to."""
_RATE: Final = "$__rate_interval"
_RANGE: Final = "$__range"
_ENDED: Final = f'{names.OUTCOME}!="retried"'
_UNEXPECTED: Final = f'{names.EXPECTED}="false"'


def legend(label: str) -> str:
    """Return what Grafana replaces by the value of a label."""
    return f"{{{{{label}}}}}"


def total(series: str, *by: str) -> str:
    """Return the sum of series, by labels."""
    return f"sum by ({', '.join(by)}) ({series})" if by else f"sum({series})"


def highest(metric: str, *by: str, also: str = OF_QUEUE) -> str:
    """Return the maximum over targets: monitors of one broker all export the same numbers."""
    return f"max by ({', '.join(by)}) ({metric}{{{also}}})"


def messages(state: str, *by: str) -> str:
    """Return the messages of queues that are in a state."""
    also = f'{OF_QUEUE}, {names.STATE}="{state}"'
    return highest(names.MESSAGES, *(by or (names.QUEUE,)), also=also)


@dataclass(frozen=True, slots=True)
class TaskQueries:
    """Queries about the tasks that label matchers select."""

    matchers: str

    def rate(self, metric: str, *by: str, also: str = "") -> str:
        """Return how much a counter rises in a second."""
        return total(f"rate({self._of(metric, also)}[{_RATE}])", *by)

    def increase(self, metric: str, *by: str, also: str = "") -> str:
        """Return how much a counter has risen in the range of time that is shown."""
        return f"round({total(f'increase({self._of(metric, also)}[{_RANGE}])', *by)})"

    def runs(self, *by: str) -> str:
        """Return the runs that end in a second; a retry ends one."""
        return self.rate(f"{names.RUN_TIME}_count", *by)

    def failures(self, *by: str) -> str:
        """Return the runs that fail or are lost in a second, but for expected exceptions."""
        return self.rate(names.FAILURES, *by, also=_UNEXPECTED)

    def failed(self, *by: str) -> str:
        """Return how many have failed in the range of time that is shown."""
        return self.increase(names.FAILURES, *by, also=_UNEXPECTED)

    def error_ratio(self) -> str:
        """Return the share of failures among the runs that end, retries apart."""
        ended = self.rate(f"{names.RUN_TIME}_count", also=_ENDED)
        return f"({self.failures()} or vector(0)) / ({ended} > 0)"

    def quantile(self, quantile: float, histogram: str, *by: str) -> str:
        """Return the time within which a part of the runs have ended, or waited."""
        buckets = self.rate(f"{histogram}_bucket", "le", *by)
        return f"histogram_quantile({quantile}, {buckets})"

    def _of(self, metric: str, also: str) -> str:
        return f"{metric}{{{self.matchers}{', ' if also else ''}{also}}}"
