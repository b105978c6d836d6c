"""What OpenAI's API has and this gateway has not, by name: so that nobody looks for a mistake of
his own."""

from __future__ import annotations

from gateway.errors import GatewayError, NotFound, NotSupported

WHAT = {
    "/v1/assistants": "assistants",
    "/v1/audio": "speech and no transcription",
    "/v1/chat/completions": "stored chat completions",
    "/v1/chatkit": "ChatKit sessions",
    "/v1/containers": "containers",
    "/v1/conversations": "conversations",
    "/v1/evals": "evals",
    "/v1/fine_tuning": "fine-tuning",
    "/v1/images": "images",
    "/v1/messages/batches": "batches of messages; /v1/batches takes chats and responses",
    "/v1/moderations": "moderations",
    "/v1/organization": "organizations",
    "/v1/realtime": "realtime sessions",
    "/v1/responses": "such responses",
    "/v1/skills": "skills",
    "/v1/threads": "threads",
    "/v1/uploads": "uploads in parts; POST /v1/files takes a whole file",
    "/v1/vector_stores": "vector stores",
    "/v1/videos": "videos",
}
"""By the beginning of the path; `no_such_path` says it of what no route has taken."""

METHODS = ("GET", "POST", "DELETE")
"""Of OpenAI's API; with others nobody asks for what it has."""


def no_such_path(method: str, path: str) -> GatewayError:
    for prefix, what in WHAT.items():
        if method in METHODS and (path == prefix or path.startswith(f"{prefix}/")):
            return NotSupported(
                f"{method} {path[:200]} is not supported: this gateway has no {what}"
            )
    if method == "DELETE" and path.startswith("/v1/models/"):
        return NotSupported("models cannot be deleted: there is no fine-tuning here")
    return NotFound(f"there is no {method} {path} here")
