"""The few forms of PromQL that the simulator can answer."""

from __future__ import annotations

import re

from launcher.autoscaling.rules import Counted, Signal
from launcher.errors import ConfigError

NUMBER = re.compile(r"sum\((rate\()?(?P<metric>\w+)(\{(?P<labels>[^}]*)\})?(\[(?P<window>\d+[sm])\]\))?\)( by \(.*\))?")
SECONDS = {"s": 1, "m": 60}
FORMS = "sum(rate(METRIC{…}[1m])) of a counter or sum(METRIC) of a gauge"


def read_query(query: str) -> Signal:
    """Raises ``ConfigError``; who calls knows in which file and under which key the query stands."""
    found = NUMBER.fullmatch(" ".join(query.split()))
    if found is None or bool(found[1]) != bool(found["window"]):
        raise ConfigError(f"the simulator reads {FORMS}, not {query!r}")
    counted = _counted(found["metric"], found["labels"] or "")
    window = found["window"]
    if (counted == "tokens_in_flight") == bool(window):
        raise ConfigError(
            f"{found['metric']} is a {'gauge, without' if window else 'counter, with'} rate(); the simulator reads {FORMS}"
        )
    return Signal(counted, float(int(window[:-1]) * SECONDS[window[-1]]) if window else None)


def _counted(metric: str, labels: str) -> Counted:
    match metric:
        case "embedding_requests_offered_total":
            return "offered"
        case "embedding_requests_total":
            # Without the status, refused requests are in it too.
            return "completed" if re.search(r'status="200"', labels) else "offered"
        case "embedding_tokens_in_flight":
            return "tokens_in_flight"
    raise ConfigError(
        f"the simulator has no {metric}; it has embedding_requests_offered_total, embedding_requests_total and "
        "embedding_tokens_in_flight"
    )
