"""Log lines for people on a terminal, JSON for machines elsewhere.

Uvicorn, SQLAlchemy and Alembic log through it.

What a record brings along was often sent by somebody: no line has more in it than a terminal shows,
and no record looks like two.
"""

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from shrinkd.terminal import json_line, shown

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is being answered; the threads that work for it have it too."""


class JsonLines(logging.Formatter):
    """One JSON object a line.

    Time, level, logger, message, and the fields that the record carries.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if answering := request_id.get():
            line["request_id"] = answering
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json_line(line)


class TextLines(logging.Formatter):
    """A line for each record.

    Time, level, message. A fault follows on lines that are indented, as no record is.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    # the name is logging's
    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # as logging has it
        return "\n".join(f"    {shown(line)}" for line in super().formatException(ei).split("\n"))


def configure(kind: Literal["auto", "text", "json"]) -> None:
    """Send every record of level INFO and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    text = kind == "text" or (kind == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextLines() if text else JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
