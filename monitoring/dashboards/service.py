"""What clients get: rate, errors, duration, and how much of the objectives is left."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.frame import Panel, Row, board
from monitoring.dashboards.panels import GREEN, RED, TALL, YELLOW, Steps, heat, lines, number, query
from monitoring.dashboards.promql import SERVER, SERVER_NAME, buckets, quantile, ready_servers, recorded, series, sum_by, total

REQUESTS = "embedding_requests_total"
OFFERED = "embedding_requests_offered_total"
ACCEPTED = "embedding_requests_accepted_total"
DURATION = "embedding_request_duration_seconds"
EMBEDDINGS = 'task="embeddings"'
FAULT = 'status=~"5.."'
TOO_MUCH = 'status="429"'
WRONG = 'status=~"4..",status!="429"'
# What the objectives leave, where the rules have it.
ERRORS = ("embedding_errors", "scalar(sgl_embed:error_budget:ratio)")
SLOW = ("embedding_slow", "scalar(sgl_embed:slow_budget:ratio)")
BURN_WINDOWS = ("5m", "1h", "6h", "3d")
TWICE: Steps = {0.01: YELLOW, 0.05: RED}
# As fast as would use a budget of 30 days in those 30 days, and in 2, where the first alert begins.
BURNING: Steps = {1: YELLOW, 14.4: RED}


def service() -> Dashboard:
    text = "Rate, errors and duration of requests, work done, and objectives, of all chosen servers together."
    return board("service", text, [now(), requests(), errors(), durations(), work(), objectives(), keys()])


def now() -> Row:
    up = number(
        "Servers that answer",
        "Prometheus could read /metrics of so many just now.",
        "short",
        query(sum_by("", series("up"))),
        steps={None: RED, 1: GREEN},
    )
    ready = number(
        "Servers that are ready",
        "They take new requests: the engine passed its self-test and they do not drain.",
        "short",
        query(ready_servers()),
        steps={None: RED, 1: GREEN},
    )
    offered = number(
        "Offered",
        "Requests that arrive, whatever becomes of them; mean of 5 minutes.",
        "reqps",
        query(sum_by("", recorded("namespace_job:embedding_requests:rate5m"))),
    )
    failed = number(
        "Failed",
        "The share of answers that are 5xx; mean of 5 minutes. The alert Errors begins at 1 %.",
        "percentunit",
        query(f"max({recorded('namespace_job:embedding_errors:ratio_rate5m')})"),
        steps={0.001: YELLOW, 0.01: RED},
    )
    p95 = number(
        "P95",
        "19 of 20 requests for embeddings took less; of 5 minutes. The alert SlowP95 begins at 2 s.",
        "s",
        query(f"max({recorded('namespace_job:embedding_request_duration_seconds:p95_5m')})"),
        steps={1: YELLOW, 2: RED},
    )
    tokens = number(
        "Tokens",
        "Tokens of answered inputs; mean of 5 minutes.",
        "short",
        query(sum_by("", recorded("namespace_job:embedding_tokens:rate5m"))),
    )
    return Row("Now", [up, ready, offered, failed, p95, tokens])


def requests() -> Row:
    # Of the two counts one may be ahead by a request when they are read.
    not_taken = f"clamp_min({total(OFFERED, by='task')} - {total(ACCEPTED, by='task')}, 0)"
    fate = lines(
        "Requests offered, taken on, and not",
        "Offered: they arrived with a key that may ask. Taken on: parsed, checked, and given room in the queue or answered "
        "from the cache. What is between them was refused, was wrong, or is still being read.",
        "reqps",
        query(total(OFFERED, by="task"), "{{task}} offered"),
        query(total(ACCEPTED, by="task"), "{{task}} taken on"),
        query(not_taken, "{{task}} not taken on"),
    )
    refused = lines(
        "Rejected, by reason",
        "Requests and connections that got an error instead of an answer, on any path but the probes'.",
        "reqps",
        query(total("embedding_requests_rejected_total", by="reason"), "{{reason}}"),
        stacked=True,
    )
    under_way = lines(
        "Requests under way",
        "They have arrived and are not answered yet.",
        "short",
        query(sum_by("task", series("embedding_requests_in_flight")), "{{task}}"),
    )
    return Row("Rate", [fate, refused, under_way])


def errors() -> Row:
    everything = total(REQUESTS)
    shares = lines(
        "Answers that are errors",
        "Shares of all answers. 5xx: the server's fault. 429: refused for load; those of a key's limits are not "
        "counted here but among the rejected. Other 4xx: the client's, among them 499, clients that had gone.",
        "percentunit",
        query(f"{total(REQUESTS, FAULT)} / {everything}", "5xx"),
        query(f"{total(REQUESTS, TOO_MUCH)} / {everything}", "429"),
        query(f"{total(REQUESTS, WRONG)} / {everything}", "other 4xx"),
        steps=TWICE,
    )
    by_status = lines(
        "Answers, by status",
        "Per second.",
        "reqps",
        query(total(REQUESTS, by="status"), "{{status}}"),
        stacked=True,
    )
    per_server = lines(
        "5xx, by server",
        "Per second. One server that fails alone is broken; all of them at once have something in common.",
        "reqps",
        query(total(REQUESTS, FAULT, by=SERVER), SERVER_NAME),
    )
    return Row("Errors", [shares, by_status, per_server])


def durations() -> Row:
    quantiles = lines(
        "Duration of requests for embeddings",
        "From a request's head to its reply's end, as the server sees it. Points are requests that were traced, where "
        "Prometheus keeps exemplars.",
        "s",
        *(query(quantile(q, DURATION, EMBEDDINGS), f"P{q * 100:g}", exemplars=q == 0.99) for q in (0.5, 0.95, 0.99)),
        steps={2: RED},
        width=12,
    )
    spread = heat(
        "Spread of durations",
        "How many requests for embeddings took how long. Two bands are two kinds of requests, or of servers.",
        "s",
        query(buckets(DURATION, EMBEDDINGS)),
    )
    by_task = lines(
        "P95, by task",
        "19 of 20 requests took less.",
        "s",
        query(quantile(0.95, DURATION, by="task"), "{{task}}"),
        width=12,
    )
    by_server = lines(
        "P95, by server",
        "Of requests for embeddings. One that is slower than the others has less of a machine, or longer texts.",
        "s",
        query(quantile(0.95, DURATION, EMBEDDINGS, by=SERVER), SERVER_NAME),
        width=12,
    )
    return Row("Duration", [quantiles, spread, by_task, by_server])


def work() -> Row:
    tokens = lines(
        "Tokens a second",
        "Tokens of answered inputs, special tokens included; those of inputs from the cache too.",
        "short",
        query(total("embedding_tokens_total"), "tokens/s"),
    )
    inputs = lines(
        "Inputs a second",
        "Texts that were answered.",
        "short",
        query(total("embedding_inputs_total"), "inputs/s"),
    )
    answered = total(REQUESTS, EMBEDDINGS, 'status="200"')
    size = lines(
        "Size of requests",
        "Inputs in a request that was answered, and tokens in an input. When these change, so does what a server can do a "
        "second.",
        "short",
        query(f"{total('embedding_inputs_total')} / {answered}", "inputs in a request"),
        query(f"{total('embedding_tokens_total')} / {total('embedding_inputs_total')}", "tokens in an input"),
    )
    return Row("Work", [tokens, inputs, size])


def objectives() -> Row:
    errors = burn(
        "How fast the budget for errors burns",
        "1: as fast as the objective, 99.9 % of answers without a 5xx, allows. 14.4 for an hour costs 2 % of a month's budget; "
        "alerts page from there on, and from 6 for 6 hours.",
        *ERRORS,
    )
    slow = burn(
        "How fast the budget for slow answers burns",
        "1: as fast as the objective, 99 % of answers within 1 s, allows. Alerts as for errors.",
        *SLOW,
    )
    left = number(
        "Budget left of 3 days",
        "Of errors and of slow answers that the objectives allow in 3 days, the share that was not used. Below 0: more than "
        "allowed.",
        "percentunit",
        query(f"1 - {used(*ERRORS, '3d')}", "errors"),
        query(f"1 - {used(*SLOW, '3d')}", "slow"),
        steps={None: RED, 0: YELLOW, 0.25: GREEN},
        width=6,
        height=TALL,
    )
    return Row("Objectives", [errors, slow, left])


def burn(title: str, text: str, what: str, budget: str) -> Panel:
    asked = [query(used(what, budget, window), f"over {window}") for window in BURN_WINDOWS]
    return lines(title, text, "short", *asked, steps=BURNING, width=9)


def used(what: str, budget: str, window: str) -> str:
    """Of the budget for as long as ``window``; of the service that has used most."""
    return f"max({recorded(f'namespace_job:{what}:ratio_rate{window}')}) / {budget}"


def keys() -> Row:
    """Of those that are used most: there may be many."""
    asked = {
        "Requests, by API key": ("Refused ones included; the ten that ask most.", "reqps", "embedding_key_requests_total"),
        "Tokens, by API key": ("Of answered inputs; the ten that use most.", "short", "embedding_key_tokens_total"),
        "Refused for a key's limits": (
            "429 because the key had used up what it may.",
            "reqps",
            "embedding_key_limited_requests_total",
        ),
    }
    return Row(
        "API keys (where the server asks for them)",
        [
            lines(title, text, unit, query(f"topk(10, {total(metric, by='key')})", "{{key}}"))
            for title, (text, unit, metric) in asked.items()
        ],
    )
