"""Series that no server here can have, with values that are made up: only that a board's expression finds them is tested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

# Of kube-state-metrics, of a machine with a GPU, and of SGLang's workers. Boards compare those of one namespace; here all have
# none, as the servers beside them in the tests' Prometheus.
ELSEWHERE = """
kube_deployment_spec_replicas{deployment="sgl-embed"} 3
kube_deployment_status_replicas_ready{deployment="sgl-embed"} 2
kube_horizontalpodautoscaler_spec_min_replicas{horizontalpodautoscaler="keda-hpa-sgl-embed"} 2
kube_horizontalpodautoscaler_spec_max_replicas{horizontalpodautoscaler="keda-hpa-sgl-embed"} 16
kube_horizontalpodautoscaler_status_current_replicas{horizontalpodautoscaler="keda-hpa-sgl-embed"} 3
kube_horizontalpodautoscaler_status_desired_replicas{horizontalpodautoscaler="keda-hpa-sgl-embed"} 3
kube_horizontalpodautoscaler_status_condition{horizontalpodautoscaler="keda-hpa-sgl-embed",\
condition="ScalingActive",status="true"} 1
kube_horizontalpodautoscaler_spec_target_metric{horizontalpodautoscaler="keda-hpa-sgl-embed",\
metric_name="s0-prometheus",metric_target_type="average"} 65
kube_horizontalpodautoscaler_spec_target_metric{horizontalpodautoscaler="keda-hpa-sgl-embed",\
metric_name="s1-prometheus",metric_target_type="average"} 5000
embedding_gpu_memory_used_bytes{gpu="0"} 4e10
embedding_gpu_memory_total_bytes{gpu="0"} 8e10
embedding_gpu_utilization_ratio{gpu="0"} 0.5
embedding_watchdog_checks_total{process="worker 0",result="passed"} 1
embedding_watchdog_checks_total{process="worker 0",result="failed"} 0
sglang:weight_memory_usage_gb{process="worker 0"} 0.6
sglang:startup_time_seconds{process="worker 0",phase="load_weight"} 2
sglang:scheduler_process_cpu_seconds_total{process="worker 0"} 9
"""


@contextmanager
def exported(text: str) -> Iterator[str]:
    """The address of a server whose /metrics is ``text``."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
