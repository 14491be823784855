"""A real Prometheus of the test's own, on a free port, that scrapes the servers it is told of."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import yaml

from tests.support.processes import wait_until

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
# Its parts begin one after the other; this is said by the one that answers, once it has a port.
LISTENING = re.compile(r'msg="Listening on" address=(\S+)')
MISSING = "these tests need Prometheus: apt install prometheus (Debian, Ubuntu), brew install prometheus (macOS)"


class RunningPrometheus:
    """Starts at once with ``config``, a whole prometheus.yml; ``wait_ready`` returns when it has scraped so many servers."""

    def __init__(self, folder: Path, config: Mapping[str, object], options: Sequence[str] = ()) -> None:
        program = shutil.which("prometheus")
        assert program, MISSING
        self._log = folder / "prometheus.log"
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'series'}"),
                    *("--web.listen-address=127.0.0.1:0", "--log.format=logfmt", *options),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self, servers: int, timeout_s: float = START_TIMEOUT_S) -> RunningPrometheus:
        wait_until("Prometheus listens", lambda: LISTENING.search(self._read_log()) is not None, START_TIMEOUT_S)
        found = LISTENING.search(self._read_log())
        assert found
        self.url = f"http://{found[1]}"
        self._client = httpx.Client(base_url=self.url, timeout=30)
        wait_until("Prometheus is ready", lambda: self._client.get("/-/ready").status_code == 200, START_TIMEOUT_S)
        wait_until("all are scraped", lambda: self.values("count(up == 1)") == [servers], timeout_s)
        return self

    def values(self, query: str, at: float | None = None) -> list[float]:
        """Of each series in the result, as of the moment ``at`` (seconds since 1970) or of now."""
        reply = self._client.get("/api/v1/query", params={"query": query, **({} if at is None else {"time": at})})
        assert reply.status_code == 200, reply.text
        return [float(series["value"][1]) for series in reply.json()["data"]["result"]]

    def samples(self, query: str, at: float) -> list[list[tuple[float, float]]]:
        """Of each series in a range vector, when it was scraped and what its value was."""
        reply = self._client.get("/api/v1/query", params={"query": query, "time": at})
        assert reply.status_code == 200, reply.text
        return [[(when, float(value)) for when, value in series["values"]] for series in reply.json()["data"]["result"]]

    def value(self, query: str, at: float | None = None) -> float:
        """As the autoscaler has it, which refuses a result of none or of several series."""
        (value,) = self.values(query, at)
        return value

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(STOP_TIMEOUT_S)

    def _read_log(self) -> str:
        log = self._log.read_text(encoding="utf-8")
        assert self._process.poll() is None, log
        return log


def configuration(servers: Sequence[str], scrape_interval_s: int, rules: Sequence[Path]) -> dict[str, object]:
    return {
        "global": dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{scrape_interval_s}s"),
        "rule_files": [str(file) for file in rules],
        "scrape_configs": [{"job_name": "sgl-embed", "static_configs": [{"targets": targets(servers)}]}],
    }


def evaluated_often(rules: str) -> str:
    """At each scrape, whatever interval a group has of its own: a test does not wait for that."""
    content = yaml.safe_load(rules)
    groups = [{key: value for key, value in group.items() if key != "interval"} for group in content["groups"]]
    return yaml.safe_dump({**content, "groups": groups})


def targets(servers: Sequence[str]) -> list[str]:
    """As Prometheus names the servers with these base URLs."""
    return [urlsplit(server).netloc for server in servers]


@contextmanager
def running_prometheus(
    folder: Path, servers: Sequence[str], scrape_interval_s: int = 1, rules: Sequence[Path] = ()
) -> Iterator[RunningPrometheus]:
    """It scrapes ``servers`` (their base URLs) and evaluates these files of rules, and does nothing else."""
    often = [folder / f"rules-{file.name}" for file in rules]
    for file, written in zip(rules, often, strict=True):
        written.write_text(evaluated_often(file.read_text(encoding="utf-8")), encoding="utf-8")
    prometheus = RunningPrometheus(folder, configuration(servers, scrape_interval_s, often))
    try:
        yield prometheus.wait_ready(len(servers), START_TIMEOUT_S + scrape_interval_s)
    finally:
        prometheus.stop()
