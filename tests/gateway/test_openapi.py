from __future__ import annotations

import httpx
import msgspec

from launcher.gateway.schemas import EmbeddingsRequest, TokenizeRequest


def test_the_document_names_every_field_that_is_read(openvino_server):
    document = httpx.get(f"{openvino_server.base_url}/openapi.json").json()
    for schema in (EmbeddingsRequest, TokenizeRequest):
        described = document["components"]["schemas"][schema.__name__]
        fields = msgspec.structs.fields(schema)
        assert set(described["properties"]) == {field.name for field in fields}
        assert set(described["required"]) == {field.name for field in fields if field.required}


def test_every_documented_route_is_there(openvino_server):
    document = httpx.get(f"{openvino_server.base_url}/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            response = httpx.request(method, openvino_server.base_url + path.replace("{id}", "tiny-zh"))
            assert response.status_code in (200, 400), f"{method} {path}: {response.status_code}"


def test_the_deadline_is_documented_where_it_is_read(openvino_server):
    document = httpx.get(f"{openvino_server.base_url}/openapi.json").json()
    for path in ("/v1/embeddings", "/tokenize"):
        (parameter,) = document["paths"][path]["post"]["parameters"]
        assert (parameter["in"], parameter["name"]) == ("header", "x-request-timeout-ms")
        refused = httpx.post(openvino_server.base_url + path, json={}, headers={parameter["name"]: "0"})
        assert refused.json()["error"]["param"] == parameter["name"]


def test_the_docs_page_loads_nothing_from_elsewhere(openvino_server):
    page = httpx.get(f"{openvino_server.base_url}/docs").text
    assert "//" not in page.replace("<!doctype", "")
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f"docs/assets/{asset}" in page
        assert httpx.get(f"{openvino_server.base_url}/docs/assets/{asset}").status_code == 200
