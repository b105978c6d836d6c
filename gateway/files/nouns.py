"""A tenant's file and a batch of requests, and how OpenAI's API shows them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
"""With which a file may be uploaded. Only `batch` means anything here."""

OUTPUT = "batch_output"


def new_id(kind: str) -> str:
    return kind + secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class File:
    id: str
    tenant: str
    filename: str
    purpose: str
    size: int  # bytes
    created: int  # seconds since 1970
    expires: int | None = None  # likewise

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created,
            "expires_at": self.expires,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Status(StrEnum):
    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


UNFINISHED = (Status.VALIDATING, Status.IN_PROGRESS, Status.FINALIZING, Status.CANCELLING)

TIMES = (
    *("in_progress", "finalizing", "completed", "failed"),
    *("expired", "cancelling", "cancelled"),
)
"""What has a time of its own, `…_at`, in what the API shows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line of a batch's input, or with the whole of it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def shown(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "line": self.line, "param": self.param}


@dataclass(frozen=True, slots=True)
class Counts:
    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    id: str
    tenant: str
    key_name: str  # whose limits and rights its requests have
    endpoint: str  # path: /v1/chat/completions, …
    input_file: str
    window: str  # as it was asked for
    created: int  # seconds since 1970
    expires: int  # likewise
    metadata: Mapping[str, str] | None = None
    output_seconds: int | None = None  # until its output expires
    status: Status = Status.VALIDATING
    times: Mapping[str, int] | None = None  # by status
    total: int = 0  # requests
    completed: int = 0  # of them, once it is finished
    failed: int = 0  # likewise
    problems: Sequence[Problem] = ()
    output_file: str | None = None
    error_file: str | None = None

    def shown(self, counts: Counts) -> dict[str, Any]:
        times = self.times or {}
        problems = [problem.shown() for problem in self.problems]
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": problems} if problems else None,
            "input_file_id": self.input_file,
            "completion_window": self.window,
            "status": str(self.status),
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "created_at": self.created,
            "expires_at": self.expires,
            **{f"{name}_at": times.get(name) for name in TIMES},
            "request_counts": {
                "total": counts.total,
                "completed": counts.completed,
                "failed": counts.failed,
            },
            "metadata": self.metadata,
        }
