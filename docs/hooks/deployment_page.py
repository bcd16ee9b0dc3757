"""The page of the deployments: parameters as their flows' types give them, everything else as prefect.yaml does."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from prefect.utilities.callables import parameter_schema


def page(root: Path) -> str:
    """Markdown: for each deployment what it does, tags, queue, schedule, and a table of its parameters."""
    deployments = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    return "\n".join(line for one in deployments for line in _section(one))


def _section(deployment: dict[str, Any]) -> list[str]:
    module, _, function = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), function)
    schema = parameter_schema(flow.fn)
    pool = deployment["work_pool"]
    facts = [
        f"tags {', '.join(f'`{tag}`' for tag in deployment['tags'])}",
        f"pool `{pool['name']}`, queue `{pool['work_queue_name']}`",
    ]
    if limit := deployment.get("concurrency_limit"):
        facts.append(f"at most {limit['limit'] if isinstance(limit, dict) else limit} at once")
    for schedule in deployment.get("schedules", []):
        state = "on" if schedule.get("active", True) else "off until you switch it on"
        facts.append(f"schedule `{schedule['cron']}` {schedule.get('timezone', 'UTC')} ({state})")
    name = deployment["name"]
    return [
        f"## {name}", "", _linked(" ".join(deployment["description"].split())), "", f"{'; '.join(facts)}.", "",
        f"    prefect deployment run {name}/{name}{_example(schema)} --watch", "",
        "| parameter | type | default | meaning |", "|---|---|---|---|",
        *(_row(parameter, field, schema) for parameter, field in _properties(schema)), "",
    ]  # fmt: skip


def _linked(text: str) -> str:
    """Prefect's UI shows the path of a page; here it is a link."""
    return re.sub(r"docs/([a-z-]+)\.md", r"[More](\1.md)", text)


def _properties(schema: Any) -> list[tuple[str, dict[str, Any]]]:
    return sorted(schema.properties.items(), key=lambda item: item[1].get("position", 0))


def _example(schema: Any) -> str:
    """Required parameters, as one would give them."""
    samples = {"image_uri": "s3://bucket/ada.jpg", "identity_id": "ada", "reason": "'asked by the person'"}
    return "".join(f" --param {name}={samples.get(name, '…')}" for name in schema.required or [])


def _row(name: str, field: dict[str, Any], schema: Any) -> str:
    required = name in (schema.required or [])
    default = "**required**" if required else _value(field.get("default"))
    meaning = field.get("description") or next(
        (one["description"] for one in _branches(field) if "description" in one), ""
    )
    return f"| `{name}` | {_type(field, schema)} | {default} | {_cell(meaning)} |"


def _branches(field: dict[str, Any]) -> list[dict[str, Any]]:
    found = [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]
    return found or [field]


def _type(field: dict[str, Any], schema: Any) -> str:
    return " or ".join(dict.fromkeys(_one_type(branch, schema) for branch in _branches(field)))


def _one_type(field: dict[str, Any], schema: Any) -> str:
    if "$ref" in field:
        return _one_type(schema.definitions[field["$ref"].rpartition("/")[2]], schema)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "object": "object",
    }
    if field.get("type") == "array":
        items = field.get("items", {})
        return f"list of {_one_type(items, schema)}" if items else "list"
    return f"{kind.get(field.get('type', ''), 'any')}{_bounds(field)}"


def _bounds(field: dict[str, Any]) -> str:
    said = [
        f"{word} {_number(field[key])}"
        for key, word in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in field
    ]
    said += [
        f"{word} {field[key]} characters" for key, word in (("minLength", "≥"), ("maxLength", "≤")) if key in field
    ]
    return f" {', '.join(said)}" if said else ""


def _number(value: float) -> str:
    return "2⁶³" if value == 2**63 else f"{value:,}"


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;").replace("[", "&#91;")
