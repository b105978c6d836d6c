"""What an answer must be, by `response_format`: text, any JSON object, or what a schema allows."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.replica.fields import Fields, refuse, valid_json


def parse_schema(fields: Fields) -> Mapping[str, object] | None:
    """The JSON schema that the answer must be valid by; None: it is text. Raises InvalidRequest."""
    wanted = fields.get("response_format")
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        refuse("response_format", "must be an object with a type")
    kind = wanted.get("type")
    if kind == "json_schema":
        return _schema(wanted.get("json_schema"))
    if kind not in ("text", "json_object"):
        refuse("response_format.type", "must be 'text', 'json_object' or 'json_schema'")
    return {"type": "object"} if kind == "json_object" else None


def _schema(value: object) -> Mapping[str, object]:
    where = "response_format.json_schema"
    if not isinstance(value, dict):
        refuse(where, "must be an object with a name and a schema")
    for name in value.keys() - {"name", "description", "schema", "strict"}:
        refuse(f"{where}.{name[:64]}", "is unknown; known: name, description, schema, strict")
    schema = value.get("schema")
    if not isinstance(schema, dict):
        refuse(f"{where}.schema", "must be a JSON schema, as an object")
    return valid_json(schema, f"{where}.schema")
