"""The parts of a server, built from a plan and handed to each other. Configuration ends here: below are plain values."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from launcher.cache.base import Level
from launcher.cache.memory import MemoryCache
from launcher.cache.redis import RedisCache
from launcher.config.schema import Config, Server, Tracing
from launcher.devices import GpuReader
from launcher.embedding.model import ServedModel
from launcher.embedding.selftest import canary, self_test
from launcher.embedding.service import EmbeddingService
from launcher.embedding.tokens import Tokenizer
from launcher.embedding.vectors import VectorSource
from launcher.engines.base import Engine
from launcher.engines.sglang.engine import SglangEngine
from launcher.gateway.access import AccessLog
from launcher.gateway.app import build_app
from launcher.gateway.auth import KeyCheck
from launcher.gateway.body import Limits
from launcher.gateway.door import Door
from launcher.gateway.held import HeldBytes
from launcher.gateway.keys import Keys
from launcher.gateway.openapi import openapi_document
from launcher.gateway.parse import Parser
from launcher.gateway.readiness import Readiness, Source
from launcher.gateway.routes.docs import DocsRoutes
from launcher.gateway.routes.inference import InferenceRoutes
from launcher.gateway.routes.models import ModelRoutes
from launcher.gateway.routes.ops import OpsRoutes
from launcher.plan import Plan, fingerprint
from launcher.scheduling.admission import Admission
from launcher.scheduling.batcher import Batcher
from launcher.scheduling.encoder import DeduplicatingEncoder, Encoder, SeparateEncoder
from launcher.scheduling.traced import TracedPacking
from launcher.supervisor.keeper import Keeper, Timed
from launcher.supervisor.supervisor import Supervisor, worker_names
from launcher.supervisor.worker import Upkeep
from launcher.telemetry.counts import WorkerCounts
from launcher.telemetry.gpus import GpuMetrics
from launcher.telemetry.hooks import ProcessHooks
from launcher.telemetry.lines import SERVER
from launcher.telemetry.metrics import Metrics
from launcher.telemetry.otlp import OtlpSpans, read_endpoint
from launcher.telemetry.processes import ProcessMetrics, PythonMetrics
from launcher.telemetry.registry import Registry
from launcher.telemetry.tracing import OWN, Tracer


class Reloadable(Protocol):
    """What follows its files while the server runs."""

    def reload(self) -> None:
        """Be as the files say now. Raises ``ConfigError``, and is then as it was before."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    app: ASGIApp
    door: Door
    access: AccessLog
    readiness: Readiness
    faults: tuple[Source, ...]
    pauses: tuple[Source, ...]
    batcher: Batcher
    redis: AbstractAsyncContextManager[object]
    # Sends them while it is entered; does not send what is left once the event is set.
    spans: Callable[[asyncio.Event], AbstractAsyncContextManager[None]]
    keeper: Keeper
    model: ServedModel
    reloadable: Mapping[str, Reloadable | None]
    registry: Registry


@dataclass(frozen=True, slots=True)
class Secrets:
    """``keys`` are those that callers must have; ``redis_url`` may hold a password, and ``trace_headers``, which the collector
    of traces asks for, a token. None is ever in a log."""

    keys: Keys = field(repr=False)
    redis_url: str | None = field(repr=False)
    trace_headers: Mapping[str, str] = field(repr=False)


def build(plan: Plan, secrets: Secrets, folder: Path) -> Parts:
    """A server in one process. ``folder`` is for its SGLang workers, if it has any."""
    tokenizer = build_tokenizer(plan)
    registry = Registry()
    engine, keeper = build_engine(plan, tokenizer, build_process_metrics(plan, registry), folder)
    if plan.workers:
        registry.register(WorkerCounts(folder))
    return build_gateway(plan, served_model(plan), secrets, tokenizer, engine, keeper, registry)


def build_process_metrics(plan: Plan, registry: Registry, gateways: Sequence[str] = ()) -> ProcessMetrics:
    """For the process that starts all others, which are the workers and these ``gateways``."""
    gpus = [spec.gpu for spec in plan.workers if spec.gpu is not None]
    GpuMetrics(registry, gpus, GpuReader(gpus).read)
    return ProcessMetrics(registry, worker_names(len(plan.workers)), gateways)


def build_gateway(
    plan: Plan,
    model: ServedModel,
    secrets: Secrets,
    tokenizer: Tokenizer,
    engine: Engine,
    keeper: Keeper,
    registry: Registry,
    process: str = SERVER,
    metrics_folder: Path | None = None,
) -> Parts:
    """One of ``server.processes`` gateways, in this ``process``. ``metrics_folder``: where they count together, None for a
    single one."""
    server = plan.config.server
    readiness = Readiness()
    metrics = Metrics(
        registry,
        {"name": model.name, "fingerprint": model.fingerprint, "engine": model.engine, "dtype": model.dtype},
        ready=lambda: readiness.reason() is None,
        folder=metrics_folder,
    )
    PythonMetrics(registry, process)
    keys = KeyCheck(secrets.keys, metrics, server.processes) if secrets.keys else None
    spans = trace_spans(plan.config.tracing, model, secrets.trace_headers)
    tracer = build_tracer(plan.config, spans) if spans else None
    admission, batcher, encoder = build_scheduling(plan, engine, metrics, tracer)
    registry.on_refresh(lambda: metrics.queue(*batcher.waiting()))
    memory, redis = memory_cache(plan), redis_cache(plan, model, secrets.redis_url)
    levels: list[Level] = [level for level in (memory, redis) if level]
    service = build_service(server, model, tokenizer, VectorSource(levels, encoder), metrics)
    access = AccessLog(metrics, plan.config.log.requests, plan.config.log.slow_request_s)
    origins = server.cors.allow_origins
    door = Door(admission, readiness, keys, metrics, access, model.fingerprint, tracer, caches=bool(levels), cors=bool(origins))
    routes = build_routes(server, model, service, readiness, metrics)
    return Parts(
        app=build_app(routes, fingerprint=model.fingerprint, keys=keys, allowed_origins=origins, access=access, tracer=tracer),
        door=door,
        access=access,
        readiness=readiness,
        faults=tuple(part.unready_reason for part in (batcher, redis) if part),
        pauses=(engine.unready_reason,),
        batcher=batcher,
        redis=redis or nullcontext(),
        spans=spans.sending if spans else no_spans,
        keeper=keeper,
        model=model,
        reloadable={"API keys": keys},
        registry=registry,
    )


def build_service(
    server: Server, model: ServedModel, tokenizer: Tokenizer, vectors: VectorSource, metrics: Metrics
) -> EmbeddingService:
    return EmbeddingService(
        model=model,
        tokenizer=tokenizer,
        vectors=vectors,
        hooks=metrics,
        truncate=server.truncate,
        max_tokens_per_request=server.max_tokens_per_request,
    )


def trace_spans(tracing: Tracing, model: ServedModel, headers: Mapping[str, str]) -> OtlpSpans | None:
    """None where tracing is off."""
    endpoint = read_endpoint(tracing.endpoint)
    if endpoint is None:
        return None
    serves = {"model": model.name, "fingerprint": model.fingerprint, "engine": model.engine, "dtype": model.dtype}
    resource = {f"{OWN}.{name}": value for name, value in serves.items()}
    return OtlpSpans(endpoint, headers, resource, tracing.service_name)


def no_spans(hurry: asyncio.Event) -> AbstractAsyncContextManager[None]:
    return nullcontext()


def build_tracer(config: Config, spans: OtlpSpans) -> Tracer:
    return Tracer(spans, config.tracing.sample, "https" if config.server.tls.cert_file else "http")


def build_scheduling(plan: Plan, engine: Engine, metrics: Metrics, tracer: Tracer | None) -> tuple[Admission, Batcher, Encoder]:
    admission = Admission(
        plan.queue_tokens,
        max_wait_s=plan.config.queue.max_wait_s,
        max_batch_tokens=engine.max_batch_tokens,
        on_change=metrics.tokens_in_flight,
    )

    def on_batch(inputs: int, tokens: int, seconds: float, busy_s: float) -> None:
        admission.observe(tokens, seconds, busy_s)
        metrics.batch(inputs, tokens, seconds)

    batcher = Batcher(engine, on_batch=on_batch, pack=TracedPacking(tracer) if tracer else None)
    if plan.config.cache.deduplicate:
        return admission, batcher, DeduplicatingEncoder(admission, batcher, max_batch_tokens=engine.max_batch_tokens)
    return admission, batcher, SeparateEncoder(admission, batcher)


def build_routes(
    server: Server, model: ServedModel, service: EmbeddingService, readiness: Readiness, metrics: Metrics
) -> list[BaseRoute]:
    inference = InferenceRoutes(
        model=model,
        service=service,
        readiness=readiness,
        hooks=metrics,
        held=HeldBytes(server.max_held_mb << 20),
        parser=Parser(max_inputs=server.max_inputs_per_request, max_tokens=server.max_tokens_per_request),
        limits=Limits(server.max_body_mb << 20, server.request_timeout_s, server.max_request_timeout_s),
    )
    return [
        *inference.routes(),
        *ModelRoutes(model).routes(),
        *OpsRoutes(readiness, metrics.render).routes(),
        *DocsRoutes(openapi_document(model, version("sgl-embed"))).routes(),
    ]


def build_tokenizer(plan: Plan) -> Tokenizer:
    return Tokenizer(plan.checkpoint.folder, plan.checkpoint.max_tokens, plan.checkpoint.shape.vocab_size)


def build_engine(plan: Plan, tokenizer: Tokenizer, hooks: ProcessHooks, folder: Path) -> tuple[Engine, Keeper]:
    test = partial(self_test, tokenizer=tokenizer)
    if plan.engine == "openvino":
        # Here and not above: OpenVINO takes 40 MB, which a gateway in front of SGLang has no use for.
        from launcher.engines.openvino.engine import OpenVinoEngine
        from launcher.supervisor.in_process import InProcess

        in_process = OpenVinoEngine(
            plan.checkpoint,
            dtype=plan.dtype,
            weights=plan.weights,
            threads=plan.config.engine.openvino.threads,
            max_batch_tokens=plan.max_batch_tokens,
            on_padding=hooks.padding,
        )
        return in_process, Timed(InProcess(in_process, test, hooks), hooks)
    workers = SglangEngine(max_batch_tokens=plan.max_batch_tokens, workers=len(plan.workers))
    upkeep = Upkeep(
        engine=workers,
        self_test=test,
        canary=canary(tokenizer),
        hooks=hooks,
        start_timeout_s=plan.config.engine.sglang.start_timeout_s,
        hang_timeout_s=plan.config.engine.sglang.hang_timeout_s,
    )
    return workers, Timed(Supervisor(plan.workers, upkeep, folder), hooks)


def memory_cache(plan: Plan) -> MemoryCache | None:
    megabytes = plan.config.cache.memory_mb
    return MemoryCache(megabytes << 20) if megabytes else None


def redis_cache(plan: Plan, model: ServedModel, url: str | None) -> RedisCache | None:
    if not url:
        return None
    config = plan.config.cache.redis
    return RedisCache(
        url, fingerprint=model.fingerprint, dimensions=model.dimensions, ttl_s=config.ttl_s, timeout_s=config.timeout_s
    )


def served_model(plan: Plan) -> ServedModel:
    checkpoint = plan.checkpoint
    return ServedModel(
        name=plan.name,
        aliases=plan.aliases,
        fingerprint=fingerprint(plan),
        revision=plan.revision,
        dimensions=checkpoint.dimensions,
        matryoshka_dimensions=checkpoint.matryoshka_dimensions,
        max_tokens=checkpoint.max_tokens,
        pooling=checkpoint.pooling,
        engine=plan.engine,
        dtype=plan.dtype,
        weights=plan.weights,
        prompts=checkpoint.prompts,
        created=int(time.time()),
    )
