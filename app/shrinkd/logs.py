"""Configure logging: text lines on a terminal, JSON lines elsewhere.

Uvicorn, SQLAlchemy and Alembic log through it. Records often contain text that a client sent, so
control characters are escaped: no record can look like two, or control a terminal.
"""

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from shrinkd.terminal import json_line, shown

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the current request, also in the threads that work for it; None outside of requests."""


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message, and its extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current := request_id.get():
            line["request_id"] = current
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json_line(line)


class TextLines(logging.Formatter):
    """Formats a record as one line: time, level, message. A traceback follows on indented lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"    {shown(line)}" for line in super().formatException(ei).split("\n"))


def configure(kind: Literal["auto", "text", "json"]) -> None:
    """Send every record of level INFO and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    text = kind == "text" or (kind == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextLines() if text else JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
