"""GET /openapi.json and a page to read and try it, from files on this machine: nothing is loaded from elsewhere."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

from launcher.gateway.reply import JsonReply

PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>sgl-embed</title>
  <link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
  <div id="page"></div>
  <script src="docs/assets/swagger-ui-bundle.js"></script>
  <script>SwaggerUIBundle({url: "openapi.json", dom_id: "#page"});</script>
</body>
</html>
"""


class DocsRoutes:
    def __init__(self, document: dict[str, object]) -> None:
        self._document = orjson.dumps(document)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/openapi.json", self._openapi),
            Route("/docs", self._page),
            Mount("/docs/assets", StaticFiles(directory=swagger_ui_path)),
        ]

    async def _openapi(self, request: Request) -> Response:
        return JsonReply(self._document)

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(PAGE)
