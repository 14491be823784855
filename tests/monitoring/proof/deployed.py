"""What is deployed, with nothing changed but addresses and, by one factor, durations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.monitoring.proof.shorter import milliseconds, shorter
from tests.support.prometheus import targets

JOB = "sgl-embed"
# Prometheus' own: how old a sample may be that an instant sees.
LOOKBACK_MS = 300_000


@dataclass(frozen=True)
class Deployed:
    """Files for Prometheus and Alertmanager; ``factor``: how many times as fast as deployed their time goes."""

    prometheus: Path
    alertmanager: Path
    rules: Sequence[Path]
    factor: float = 1.0

    @classmethod
    def of(cls, folder: Path, factor: float) -> Deployed:
        """``folder`` is ``monitoring/`` of a checkout."""
        rules = sorted((folder / "prometheus/rules").glob("*.yml"))
        assert rules, f"no rules in {folder / 'prometheus/rules'}"
        return cls(folder / "prometheus/prometheus.yml", folder / "alertmanager/alertmanager.yml", rules, factor)

    def seconds(self, deployed: float) -> float:
        return deployed / self.factor

    def prometheus_options(self) -> list[str]:
        return [f"--query.lookback-delta={round(LOOKBACK_MS / self.factor)}ms"]

    def prometheus_config(self, folder: Path, servers: Sequence[str], alertmanager: str) -> dict[str, Any]:
        """It scrapes ``servers`` (base URLs) and tells ``alertmanager`` (host:port). Writes the rules into ``folder``."""
        config = self._read(self.prometheus)
        (job,) = (job for job in config["scrape_configs"] if job["job_name"] == JOB)
        found = {name: value for name, value in job.items() if not name.endswith("_sd_configs")}
        config["scrape_configs"] = [{**found, "static_configs": [{"targets": targets(servers)}]}]
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
        config["rule_files"] = [str(self._write_rule(file, folder)) for file in self.rules]
        # A busy machine does not answer the faster for it: whoever is late is late only by a whole interval.
        for section in (config["global"], *config["scrape_configs"]):
            if "scrape_timeout" in section:
                section["scrape_timeout"] = config["global"]["scrape_interval"]
        return config

    def alertmanager_config(self, webhook: str) -> dict[str, Any]:
        """Each receiver has this webhook, and nobody else is told."""
        config = self._read(self.alertmanager)
        config["receivers"] = [{"name": each["name"], "webhook_configs": [{"url": webhook}]} for each in config["receivers"]]
        return config

    def scrape_interval_s(self) -> float:
        return milliseconds(self._read(self.prometheus)["global"]["scrape_interval"]) / 1000

    def _write_rule(self, file: Path, folder: Path) -> Path:
        written = folder / file.name
        written.write_text(shorter(file.read_text(encoding="utf-8"), self.factor), encoding="utf-8")
        return written

    def _read(self, file: Path) -> dict[str, Any]:
        read: dict[str, Any] = yaml.safe_load(shorter(file.read_text(encoding="utf-8"), self.factor))
        return read
