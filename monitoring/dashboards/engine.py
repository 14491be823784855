"""What the engine does with the inputs: batches, stages, queue, cache, and what is computed for nothing."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.frame import Row, board
from monitoring.dashboards.panels import RED, YELLOW, Steps, heat, lines, query
from monitoring.dashboards.promql import SERVER, SERVER_NAME, buckets, mean, quantile, series, sum_by, total

BATCH_INPUTS = "embedding_batch_inputs"
BATCH_TOKENS = "embedding_batch_tokens"
BATCH_DURATION = "embedding_batch_duration_seconds"
STAGE = "embedding_stage_duration_seconds"
INPUTS = "embedding_inputs_total"
CACHED = "embedding_cached_inputs_total"
DEDUPLICATED = "embedding_deduplicated_inputs_total"
QUANTILES = (0.5, 0.95)
# As server.request_timeout_s and queue.max_wait_s have it.
WAITING: Steps = {1: YELLOW, 5: RED}


def engine() -> Dashboard:
    text = "How full batches are, where the time goes, what waits, and what is spared or wasted."
    return board("engine", text, [batches(), stages(), queue(), cache(), waste()])


def batches() -> Row:
    inputs = lines(
        "Inputs in a batch",
        "How many texts the engine computed together. About 1 under load: requests come one at a time, and the engine waits "
        "for them.",
        "short",
        query(mean(BATCH_INPUTS), "mean"),
        *(query(quantile(q, BATCH_INPUTS), f"P{q * 100:g}") for q in QUANTILES),
    )
    tokens = lines(
        "Tokens in a batch",
        "Quantiles are of buckets that grow fourfold, so they are rough.",
        "short",
        query(mean(BATCH_TOKENS), "mean"),
        *(query(quantile(q, BATCH_TOKENS), f"P{q * 100:g}") for q in QUANTILES),
    )
    duration = lines(
        "Duration of a batch",
        "From when the engine is given a batch until it has its vectors.",
        "s",
        query(mean(BATCH_DURATION), "mean"),
        *(query(quantile(q, BATCH_DURATION), f"P{q * 100:g}") for q in QUANTILES),
    )
    spread = heat("Spread of batches' tokens", "How many batches had how many tokens.", "short", query(buckets(BATCH_TOKENS)))
    busy = lines(
        "Batches at the engine",
        "Mean number of batches that it has. Of an engine that takes one at a time: the share of time in which it is busy, 1 "
        "when it can do no more.",
        "short",
        query(total(f"{BATCH_DURATION}_sum", by=SERVER), SERVER_NAME),
        width=12,
    )
    rate = lines(
        "Batches a second",
        "Few and full is fast; many and small answers sooner while there is little to do.",
        "short",
        query(total(f"{BATCH_DURATION}_count", by=SERVER), SERVER_NAME),
        width=12,
    )
    speed = lines(
        "Tokens a second while the engine computes",
        "Tokens of batches by the time of batches: how fast it is, however much there is to do.",
        "short",
        query(f"{total(f'{BATCH_TOKENS}_sum')} / {total(f'{BATCH_DURATION}_sum')}", "tokens/s"),
        width=12,
    )
    return Row("Batches", [inputs, tokens, duration, spread, busy, rate, speed])


def stages() -> Row:
    means = lines(
        "Where a request's time goes",
        "Mean of each stage, of requests that went through it. Those that are not in it: receiving the body and sending the "
        "reply.",
        "s",
        query(mean(STAGE, by="stage"), "{{stage}}"),
        stacked=True,
        width=12,
    )
    tails = lines(
        "P95 of each stage",
        "These do not add up to the P95 of requests.",
        "s",
        query(quantile(0.95, STAGE, by="stage"), "{{stage}}"),
        width=12,
    )
    return Row("Stages", [means, tails])


def queue() -> Row:
    waiting = lines(
        "Tokens that wait",
        "Of inputs that are in no batch yet.",
        "short",
        query(sum_by(SERVER, series("embedding_queue_tokens")), SERVER_NAME),
    )
    age = lines(
        "Age of the oldest that waits",
        "0 where none does. New requests are refused where they would wait longer than queue.max_wait_s, 5 s unless set "
        "otherwise.",
        "s",
        query(f"max by ({SERVER}) ({series('embedding_queue_oldest_seconds')})", SERVER_NAME),
        steps=WAITING,
    )
    in_flight = lines(
        "Tokens in flight",
        "Waiting or being computed; what the autoscaler looks at, and what queue.max_tokens bounds.",
        "short",
        query(sum_by(SERVER, series("embedding_tokens_in_flight")), SERVER_NAME),
    )
    return Row("Queue", [waiting, age, in_flight])


def cache() -> Row:
    hits = lines(
        "Inputs that were not computed",
        "Shares of all inputs answered: found in a level of the cache, or equal to one that was under way.",
        "percentunit",
        query(f"{total(CACHED, by='level')} / on () group_left () {total(INPUTS)}", "cache: {{level}}"),
        query(f"{total(DEDUPLICATED)} / {total(INPUTS)}", "de-duplicated"),
        stacked=True,
        most=1,
    )
    rates = lines(
        "Inputs a second, by where they came from",
        "What the engine computed is what is left of all.",
        "short",
        query(total(CACHED, by="level"), "cache: {{level}}"),
        query(total(DEDUPLICATED), "de-duplicated"),
        query(total(f"{BATCH_INPUTS}_sum"), "engine"),
        stacked=True,
    )
    lookups = lines(
        "Time of a look into the cache",
        "Of all inputs of a request together. As long as the engine takes: Redis is too far away, or too busy.",
        "s",
        query(mean(STAGE, 'stage="cache"'), "mean"),
        query(quantile(0.95, STAGE, 'stage="cache"'), "P95"),
    )
    return Row("Cache and equal inputs", [hits, rates, lookups])


def waste() -> Row:
    padding = total("embedding_padding_tokens_total")
    wasted = lines(
        "Padding",
        "The share of positions the engine computed that held no token. SGLang has none.",
        "percentunit",
        query(f"{padding} / ({padding} + {total(f'{BATCH_TOKENS}_sum')})", "padding"),
        most=1,
        width=12,
    )
    cut = lines(
        "Truncated inputs",
        "The share of inputs that were longer than the model takes, and were cut: their end is in no vector.",
        "percentunit",
        query(f"{total('embedding_truncated_inputs_total')} / {total(INPUTS)}", "truncated"),
        steps={0.05: YELLOW},
        width=12,
    )
    return Row("Waste", [wasted, cut])
