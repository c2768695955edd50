"""Parse ``/metrics`` with Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Scraped:
    """One scrape of ``/metrics``. Raises ValueError on a format error."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """Return the value of one series. Raises KeyError."""
        return self.samples[name, frozenset(labels.items())]

    def has(self, name: str) -> bool:
        return any(known == name for known, _ in self.samples)

    def label_values(self) -> set[str]:
        return {value for _, labels in self.samples for _, value in labels}
