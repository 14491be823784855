"""Frames as lines for a terminal, with rich."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from launcher.top.frame import Frame, KeyLine, ProcessLine, ServerLine, StageLine, TaskLine

SPARKS = "▁▂▃▄▅▆▇█"
SPARKS_WIDTH = 40
# Of a line before its sparks: a name, a figure and what else is said.
BESIDE_SPARKS = 51
LONGEST_NAME = 36
MOST_FINGERPRINTS = 2
HEADING = "dim"
TROUBLE = "bold red"
# Any other state is trouble.
STYLES = {"ready": "green", "asking": "dim", "new": "yellow", "starting": "yellow", "draining": "yellow", "not ready": "yellow"}
# What goes first where a terminal is narrow.
EXPENDABLE = ("answered", "tokenize", "in flight", "P99", "cache", "encode", "P50", "failed", "tokens/s")


class Screen:
    """The newest of ``frames``, and the course of two figures over all of them.

    In a terminal it takes no more lines than there are; elsewhere all servers are listed.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = self._frames[-1]
        above = Group(*self._above_servers(now, console, options))
        yield above
        lines = console.size.height - len(console.render_lines(above, options)) if console.is_terminal else None
        yield from _servers(now.servers, lines, options)

    def _above_servers(self, now: Frame, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from _title(now)
        yield _tasks(now.tasks, options)
        yield _line("refused/s", [f"{reason} {_rate(count)}" for reason, count in now.rejected] or ["none"])
        yield ""
        drawn = console.is_terminal and not options.ascii_only
        yield from _flow(self._frames, min(options.max_width - BESIDE_SPARKS, SPARKS_WIDTH) if drawn else 0)
        yield _line("batches", _batches(now))
        yield ""
        yield _stages(now.stages, options)
        yield ""
        shares = [*now.cached, ("equal inputs", now.deduplicated)]
        yield _line("cache", [f"{name} {_share(share)}" for name, share in shares])
        if now.keys:
            yield _line("keys", [_key(line) for line in now.keys])
        if now.processes:
            yield _line("processes", _processes(now.processes))


def _title(now: Frame) -> Iterator[Text]:
    ready = sum(server.state == "ready" for server in now.servers)
    one_space = len(now.fingerprints) <= 1
    yield _text(
        (f"{ready} of {len(now.servers)} ready  ", STYLES["ready"] if ready == len(now.servers) else TROUBLE),
        f"{'; '.join(now.models) or 'no model known'}  ",
        (", ".join(now.fingerprints), HEADING if one_space else TROUBLE),
    )
    if not one_space:
        yield _text(("DIFFERENT FINGERPRINTS: these servers' vectors must not be mixed", TROUBLE))
        for name, urls in list(now.fingerprints.items())[:MOST_FINGERPRINTS]:
            yield _text((f"{name} at {', '.join(map(_host, urls))}", TROUBLE))


def _tasks(tasks: Sequence[TaskLine], options: ConsoleOptions) -> Table:
    columns = {
        "requests/s": [line.task for line in tasks],
        "offered": [_rate(line.offered) for line in tasks],
        "answered": [_rate(line.answered) for line in tasks],
        "failed": [_rate(line.failed) for line in tasks],
        "in flight": [_count(line.in_flight) for line in tasks],
        "P50": [_seconds(line.p50) for line in tasks],
        "P95": [_seconds(line.p95) for line in tasks],
        "P99": [_seconds(line.p99) for line in tasks],
    }
    return _table(columns, options)


def _flow(frames: Sequence[Frame], sparks: int) -> Iterator[Text]:
    now = frames[-1]
    held, cut = f"{_count(now.tokens_in_flight)} tokens in flight", f"{_rate(now.truncated)} cut" if now.truncated > 0 else ""
    yield _line("tokens/s", [f"{_rate(now.tokens):<9}", f"{held:<26}", _spark([each.tokens for each in frames], sparks)])
    yield _line("inputs/s", [f"{_rate(now.inputs):<9}", f"{cut:<26}", _spark([each.inputs for each in frames], sparks)])


def _batches(now: Frame) -> list[str | Text]:
    each = now.batches
    fill = f"{_rate(each.rate)}/s of {_rate(each.inputs)} inputs, {_rate(each.tokens)} tokens, {_seconds(each.seconds)}"
    waits = [f"oldest waits {_seconds(now.queue_oldest_s)}"] if now.queue_oldest_s > 0 else []
    return [fill, f"{_rate(each.under_way)} under way", *waits]


def _stages(stages: Sequence[StageLine], options: ConsoleOptions) -> Table:
    values = {line.stage: [_seconds(line.mean), _seconds(line.p95)] for line in stages}
    return _table({"stages": ["mean", "P95"], **values}, options)


def _key(line: KeyLine) -> str:
    limited = f" ({_rate(line.limited)} requests/s over its limits)" if line.limited > 0 else ""
    return f"{line.key} {_rate(line.tokens)} tokens/s{limited}"


def _processes(processes: Sequence[ProcessLine]) -> list[str | Text]:
    """How many are in which state; by name only those that are in trouble or were."""
    counts = {state: sum(each.state == state for each in processes) for state in sorted({each.state for each in processes})}
    troubled = sorted(
        (each for each in processes if each.restarts or each.state != "ready"), key=lambda each: each.state == "ready"
    )
    several = len({each.url for each in processes}) > 1
    named = [
        f"{each.process}{f' at {_host(each.url)}' if several else ''} {each.state}, {_count(each.restarts)} restarts"
        for each in troubled
    ]
    return [*(Text(f"{count} {state}", STYLES.get(state, TROUBLE)) for state, count in counts.items()), *named]


def _servers(servers: Sequence[ServerLine], lines: int | None, options: ConsoleOptions) -> Iterator[RenderableType]:
    """Those in trouble first, in that many ``lines``."""
    in_order = sorted(servers, key=lambda line: line.state == "ready" and not line.restarts)
    failing = [line for line in in_order if line.failure][:1]
    room = len(servers) if lines is None else max(lines - 1 - len(failing), 1)
    listed = in_order if len(servers) <= room else in_order[: max(room - 1, 1)]
    columns: dict[str, Sequence[str | Text]] = {
        "server": [_host(line.url) for line in listed],
        "state": [_state(line) for line in listed],
        "requests/s": [_rate(line.offered) for line in listed],
        "P95": [_seconds(line.p95) for line in listed],
        "tokens/s": [_rate(line.tokens) for line in listed],
        "in flight": [_count(line.tokens_in_flight) for line in listed],
    }
    yield _table(columns, options)
    if len(listed) < len(servers):
        yield Text(f"and {len(servers) - len(listed)} more")
    for line in failing:
        yield _text((f"{line.url}: {line.failure}", TROUBLE))


def _state(line: ServerLine) -> Text:
    return Text(line.state + (f", {line.restarts} restarts" if line.restarts else ""), STYLES.get(line.state, TROUBLE))


def _table(columns: Mapping[str, Sequence[str | Text]], options: ConsoleOptions) -> Table:
    """The first column is on the left and all others on the right; without those that are too many for the width."""
    widths = {name: max(len(name), *(len(cell) for cell in cells)) + 2 for name, cells in columns.items()}
    first = next(iter(columns))
    widths[first] = min(widths[first], LONGEST_NAME)
    kept = set(columns)
    for expendable in EXPENDABLE:
        if sum(widths[name] for name in kept) > options.max_width:
            kept.discard(expendable)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style=HEADING)
    for name in columns:
        if name in kept:
            left = name == first
            table.add_column(name, justify="left" if left else "right", no_wrap=True, max_width=LONGEST_NAME if left else None)
    for row in zip(*(cells for name, cells in columns.items() if name in kept), strict=True):
        table.add_row(*row)
    return table


def _line(name: str, parts: Sequence[str | Text]) -> Text:
    return _text((f"{name:<12}", HEADING), Text("  ").join(Text.assemble(part) for part in parts))


def _text(*parts: str | Text | tuple[str, str]) -> Text:
    """One line, cut where the terminal ends."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _host(url: str) -> str:
    return url.partition("://")[2]


def _spark(values: Sequence[float], width: int) -> str:
    known = [0.0 if math.isnan(value) else value for value in values[-width:]] if width > 0 else []
    highest = max(known, default=0.0) or 1.0
    return "".join(SPARKS[round(value / highest * (len(SPARKS) - 1))] for value in known)


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else _count(value)


def _count(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"
