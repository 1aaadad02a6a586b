"""The page /docs: the OpenAPI description as plain HTML, without a script or a file from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

import orjson

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
h2{margin-top:2.5rem;border-bottom:1px solid #d0d7de}section{margin:1.5rem 0}
code,pre{font:13px/1.45 ui-monospace,monospace;background:#f3f4f6;border-radius:4px}code{padding:.1em .3em}
pre{padding:.8rem;overflow:auto}b.get{color:#0a6b3b;margin-right:.5rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;
border-bottom:1px solid #eaeef2}details{margin:.4rem 0}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#d7dde3}code,pre{background:#1b222b}
td,th{border-color:#2b333d}h2{border-color:#2b333d}a{color:#6cb6ff}b.get{color:#57c98a}}
"""


def page(openapi: dict[str, Any]) -> str:
    """Return the whole page."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(openapi['info']['title'])} API</title><style>{_STYLE}</style>",
        f"<h1>{escape(openapi['info']['title'])} API</h1>",
        '<p><a href="/">Dashboard</a> · <a href="/openapi.json">OpenAPI description</a></p>',
        *(f"<p>{_inline(text)}</p>" for text in openapi["info"]["description"].split("\n\n")),
    ]
    for tag in openapi["tags"]:
        parts.append(f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>")
        for path, methods in openapi["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation.get("tags", []):
                    parts.append(_operation(openapi, path, method, operation))
    return "".join(parts) + "</html>"


def _operation(openapi: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        f'<section><h3><b class="get">{method.upper()}</b><code>{escape(path)}</code></h3>',
        f"<p>{_inline(operation.get('description', ''))}</p>",
    ]
    if operation.get("parameters"):
        parts.append("<table><tr><th>parameter<th>in<th>type<th>default<th>meaning</tr>")
        parts += [_parameter(parameter) for parameter in operation["parameters"]]
        parts.append("</table>")
    for status, response in operation["responses"].items():
        contents: list[dict[str, Any]] = list(response.get("content", {}).values())
        schema = contents[0].get("schema") if contents else None
        described = f"<code>{status}</code> {_inline(response.get('description', ''))}"
        if schema and status == "200":
            example = orjson.dumps(_example(openapi, schema), option=orjson.OPT_INDENT_2).decode()
            parts.append(f"<details open><summary>{described}</summary><pre>{escape(example)}</pre></details>")
        else:
            parts.append(f"<p>{described}</p>")
    return "".join(parts) + "</section>"


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter.get("schema", {})
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    option = options[0] if options else {}
    kind = " | ".join(map(str, option["enum"])) if "enum" in option else str(option.get("type", ""))
    if "maximum" in option:
        kind += f" {option.get('minimum', '')} to {option['maximum']}"
    default = schema.get("default", "required" if parameter.get("required") else "")
    cells = (f"<code>{escape(parameter['name'])}</code>", parameter["in"], escape(kind), escape(str(default or "")))
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells) + f"<td>{_inline(parameter.get('description', ''))}</tr>"


def _example(openapi: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Return a value that fits the schema, from its examples."""
    known = schema.get("const", schema.get("default", next(iter(schema.get("examples", [])), None)))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        known = _example(openapi, openapi["components"]["schemas"][name])
    elif "anyOf" in schema and not schema.get("examples"):
        known = _example(openapi, schema["anyOf"][0])
    elif schema.get("type") == "object" and "properties" in schema:
        known = {name: _example(openapi, each) for name, each in schema["properties"].items()}
    elif schema.get("type") == "array" and not schema.get("examples"):
        known = [_example(openapi, schema["items"])]
    return known


def _inline(text: str) -> str:
    """Return text as HTML, with what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
