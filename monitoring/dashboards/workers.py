"""The processes of the servers, what they use of their machines, the GPUs, and which model they have."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.frame import Row, board
from monitoring.dashboards.panels import GREEN, LOW, RED, YELLOW, bars, facts, lines, number, query, states
from monitoring.dashboards.promql import SERVER, added, series, sum_by, total

INFO = "embedding_model_info"
STATE = "embedding_process_state"
# In the order of a process's life; 0 is what is left where it is in none of the others.
STATES = {0: ("new", "text"), 1: ("starting", "blue"), 2: ("ready", GREEN), 3: ("draining", YELLOW), 4: ("dead", RED)}
# Instance and process, of which a service has several.
EACH = "instance, process, pod"
NAMED = "{{instance}} {{process}} {{pod}}"
GPU = "{{instance}} GPU {{gpu}} {{pod}}"


def workers() -> Dashboard:
    text = "Processes and their states, restarts and checks, CPU, memory and files, GPUs, and the model that is served."
    return board("workers", text, [model(), processes(), resources(), gpus(), sglang()])


def model() -> Row:
    spaces = number(
        "Vector spaces",
        "How many fingerprints a service has, of the service that has most. More than one: vectors of one server do not fit "
        "those of another.",
        "short",
        query(f"max(count by (namespace, job) (count by (namespace, job, fingerprint) ({series(INFO)})))"),
        steps={None: GREEN, 2: RED},
    )
    load = number(
        "Model load time",
        "The longest: from the engine's start until its self-test was passed.",
        "s",
        query(f"max({series('embedding_model_load_seconds')})"),
    )
    restarts = number(
        "Restarts",
        "Processes started in the place of one that ended, in the time that is shown.",
        "short",
        query(f"round(sum(increase({series('embedding_process_restarts_total')}[$__range])))"),
        steps={1: YELLOW, 3: RED},
    )
    python = facts(
        "Python",
        "What the servers run on.",
        f"count by (version, implementation) ({series('embedding_python_info')})",
        ("implementation", "version"),
        width=12,
        height=LOW,
    )
    served = facts(
        "Models",
        "One row for each server. Equal fingerprints: vectors may be mixed.",
        f"max by (namespace, {SERVER}, name, fingerprint, engine, dtype) ({series(INFO)})",
        ("namespace", "instance", "pod", "name", "fingerprint", "engine", "dtype"),
    )
    return Row("Model", [spaces, load, restarts, python, served])


def processes() -> Row:
    coded = " or ".join(f"{series(STATE, of_state(name))} * {code}" for code, (name, _) in STATES.items())
    timeline = states(
        "State of each process",
        "Workers that hold the model, and gateways where there are several. A server whose engine runs in its only process has "
        "none.",
        STATES,
        query(f"max by ({EACH}) ({coded})", NAMED),
    )
    restarts = bars(
        "Restarts, by process",
        "Processes started in the place of one that ended.",
        "short",
        query(added("embedding_process_restarts_total", by=EACH), NAMED),
    )
    tests = lines(
        "Self-tests so far",
        "At each start of an engine known texts are computed, alone and together; one that fails ends that start. The first "
        "was made before Prometheus could ask.",
        "short",
        query(sum_by("process, result", series("embedding_self_tests_total")), "{{process}} {{result}}"),
    )
    watchdog = lines(
        "Watchdog's checks",
        "Every 5 s each worker computes a short text. One that fails a check is ended and started anew.",
        "short",
        query(total("embedding_watchdog_checks_total", by="process, result"), "{{process}} {{result}}"),
    )
    return Row("Processes", [timeline, restarts, tests, watchdog])


def of_state(name: str) -> str:
    return f'state="{name}"'


def resources() -> Row:
    cpu = lines(
        "CPU",
        "Cores that each process keeps busy. A gateway at 1 can do no more: see server.processes.",
        "short",
        query(total("embedding_process_cpu_seconds_total", by=EACH), NAMED),
    )
    memory = lines(
        "Memory",
        "What each process has in RAM. It grows while the cache fills, and then no more.",
        "bytes",
        query(sum_by(EACH, series("embedding_process_resident_memory_bytes")), NAMED),
        stacked=True,
    )
    files = lines(
        "Open files and connections",
        "The share of what the process may open. Each client's connection is one.",
        "percentunit",
        query(f"{series('embedding_process_open_fds')} / {series('embedding_process_max_fds')}", NAMED),
        steps={0.8: RED},
    )
    age = lines(
        "Time since each process began",
        "A saw's tooth is a restart.",
        "s",
        query(f"time() - {series('embedding_process_start_time_seconds')}", NAMED),
        width=12,
    )
    garbage = lines(
        "Garbage collections",
        "Of each process of this server that is Python's, per second.",
        "short",
        query(
            total("embedding_python_gc_collections_total", by=f"{EACH}, generation"), f"{NAMED} generation {{{{generation}}}}"
        ),
        width=12,
    )
    return Row("CPU, memory, files", [cpu, memory, files, age, garbage])


def gpus() -> Row:
    used, most = series("embedding_gpu_memory_used_bytes"), series("embedding_gpu_memory_total_bytes")
    memory = lines("GPU memory", "In use, by whatever program.", "bytes", query(used, GPU))
    full = lines(
        "GPU memory in use",
        "The share of what the GPU has. SGLang takes most of its part when it starts.",
        "percentunit",
        query(f"{used} / {most}", GPU),
        most=1,
        steps={0.95: RED},
    )
    busy = lines(
        "GPU use",
        "The share of time in which something ran on it, which is not how much of it was used.",
        "percentunit",
        query(series("embedding_gpu_utilization_ratio"), GPU),
        most=1,
    )
    return Row("GPUs (absent where there is none)", [memory, full, busy])


def sglang() -> Row:
    """The rest of what it counts is of requests, which do not pass its scheduler here."""
    weights = lines(
        "Weights, by worker",
        "Memory that loading the model took, as SGLang says; on a GPU, of that.",
        "bytes",
        query(f"{series('sglang:weight_memory_usage_gb')} * 2^30", NAMED),
    )
    start = lines(
        "SGLang's start, by phase",
        "scheduler_e2e is the whole start of the process that holds the model; load_weight is a part of it.",
        "s",
        query(f"max by ({EACH}, phase) ({series('sglang:startup_time_seconds')})", f"{NAMED} {{{{phase}}}}"),
    )
    cpu = lines(
        "CPU of SGLang's scheduler",
        "Cores that the process which holds the model keeps busy.",
        "short",
        query(total("sglang:scheduler_process_cpu_seconds_total", by=EACH), NAMED),
    )
    return Row("SGLang's own (where engine.sglang.metrics is true)", [weights, start, cpu])
