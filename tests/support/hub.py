"""A model hub on this machine, speaking as much of both hubs' HTTP as their client libraries use.

Hugging Face: https://huggingface.co/docs/hub/api and the ``resolve`` URLs. ModelScope: the ``/api/v1/models`` routes of its
client, ``modelscope_hub``. Both serve the same folders, one per repository id.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BRANCHES = ("main", "master")

# silent: takes connections and never answers. gone: closes them at once. broken: 503. portal: a login page for an answer.
# blocked: a proxy's page that says no.
# gated: anyone may list the files, nobody may read them.
# cuts, dies, stalls: half of one big file, and from then on normal, gone or silent.
Mood = Literal["normal", "silent", "gone", "broken", "portal", "blocked", "gated", "cuts", "dies", "stalls"]
AFTERWARDS: Mapping[Mood, Mood] = {"cuts": "normal", "dies": "gone", "stalls": "silent"}
BIG = 10_000

HUGGING_FACE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
MODELSCOPE = re.compile(r"/api/v1/models/(?P<repo>[^/]+/[^/]+)/repo(?P<list>/files)?")


class ModelHub(ThreadingHTTPServer):
    """``requests`` are the paths asked for so far, ``cuts`` the files broken off. With a ``token``, others get 401."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, repos: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = repos
        self.mood: Mood = "normal"
        self.token: str | None = None
        self.requests: list[str] = []
        self.silent_after: int | None = None
        self.cuts = 0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


@contextmanager
def model_hub(repos: Mapping[str, Path]) -> Iterator[ModelHub]:
    hub = ModelHub(repos)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: ModelHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.server.requests.append(path)
        if self.server.silent_after is not None and len(self.server.requests) > self.server.silent_after:
            self.server.mood = "silent"
        match self.server.mood:
            case "silent":
                self.server.closing.wait()
                self.close_connection = True
            case "gone":
                self.close_connection = True
            case "broken":
                self.refuse(503)
            case "portal":
                self.answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
            case "blocked":
                self.answer(403, b"<html>Not for you</html>", {"Content-Type": "text/html"})
            case _:
                self.route(path, query)

    def route(self, path: str, query: Mapping[str, str]) -> None:
        # http.server itself forgives a doubled slash; not every hub does.
        target = self.requestline.split()[1]
        if self.server.token is not None and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.refuse(401)
        elif target.startswith("//"):
            self.refuse(404)
        elif match := MODELSCOPE.fullmatch(path):
            self.modelscope(match, query)
        elif match := RESOLVE.fullmatch(path):
            self.hugging_face_file(match)
        elif match := HUGGING_FACE.fullmatch(path):
            self.hugging_face(match)
        else:
            self.refuse(404)

    def hugging_face(self, match: re.Match[str]) -> None:
        folder = self.repository(match["repo"], match["revision"] or "main")
        if folder is None:
            return
        if match["what"] == "tree":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files(folder).items()
            ]
            self.answer_json(tree)
        else:
            siblings = [{"rfilename": name} for name in files(folder)]
            self.answer_json({"id": match["repo"], "sha": COMMIT, "siblings": siblings, "tags": []})

    def hugging_face_file(self, match: re.Match[str]) -> None:
        folder = self.repository(match["repo"], match["revision"])
        if folder is None:
            return
        if self.server.mood == "gated":
            self.refuse(403, {"X-Error-Code": "GatedRepo"})
            return
        content = (folder / match["path"]).read_bytes()
        self.answer_file(content, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    def modelscope(self, match: re.Match[str], query: Mapping[str, str]) -> None:
        folder = self.repository(match["repo"], query["Revision"])
        if folder is None:
            return
        if match["list"]:
            listing = [
                {"Path": name, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
                for name, content in files(folder).items()
            ]
            # Its client knows listings that leave a size out.
            del listing[0]["Size"]
            self.answer_json({"Code": 200, "Success": True, "Data": {"Files": listing}})
        elif self.server.mood == "gated":
            self.refuse(403)
        else:
            self.answer_file((folder / query["FilePath"]).read_bytes(), {})

    def repository(self, repo: str, revision: str) -> Path | None:
        folder = self.server.repos.get(repo)
        if folder is None:
            self.refuse(404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (*BRANCHES, COMMIT):
            self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return folder

    def answer_file(self, content: bytes, headers: Mapping[str, str]) -> None:
        status, start = 200, 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(asked[1])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.answer(status, content[start:], {**headers, "Accept-Ranges": "bytes"})

    def refuse(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        body = b'{"error": "refused", "Message": "refused"}'
        self.answer(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})

    def answer_json(self, content: object) -> None:
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        afterwards = AFTERWARDS.get(self.server.mood)
        if afterwards is None or len(body) <= BIG:
            self.wfile.write(body)
            return
        self.server.mood = afterwards
        self.server.cuts += 1
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if afterwards == "silent":
            self.server.closing.wait()
        self.close_connection = True


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
