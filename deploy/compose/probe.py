"""Waits until a replica is ready, asks it for a vector and looks at that: probe.py URL SECONDS.

rollout.sh runs it in a container.
"""

import json
import math
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

ASK_AGAIN_S = 0.5
REPLY_TIMEOUT_S = 15


def main(url: str, seconds: str) -> None:
    wait_ready(url, time.monotonic() + float(seconds))
    model = ask(url, "/v1/models")["data"][0]
    vector = ask(url, "/v1/embeddings", {"model": model["id"], "input": "你好，世界"})["data"][0]["embedding"]
    length = math.hypot(*vector)
    if len(vector) != model["dimensions"] or not math.isclose(length, 1, abs_tol=1e-3):
        sys.exit(f"{url}: a vector of {len(vector)} dimensions and length {length}, not of {model['dimensions']} and 1")
    print(f"{url}: ready, {model['id']}, {model['fingerprint']}")


def wait_ready(url: str, deadline: float) -> None:
    while True:
        try:
            ask(url, "/ready")
            return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{url}: not ready in time: {said(error)}")
        time.sleep(ASK_AGAIN_S)


def ask(url: str, path: str, body: dict[str, str] | None = None) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('SGL_EMBED_API_KEY', '')}"}
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None, headers)
    with urllib.request.urlopen(request, timeout=REPLY_TIMEOUT_S) as reply:
        return json.load(reply)


def said(error: OSError) -> str:
    return error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else str(error)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {said(error)}")
