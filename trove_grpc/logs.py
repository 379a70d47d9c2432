"""JSON log lines with request id and labels, for people with jq and for collectors."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from typing import TextIO

from google.protobuf.message import Message

from trove_grpc import context, redaction


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, logger, message, request_id, labels."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record.args = tuple(_safe(argument) for argument in record.args)
        line = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := context.request_id():
            line["request_id"] = request_id
        line.update(context.labels())
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(process: str, *, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (standard error) as JSON."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _safe(argument: object) -> object:
    return redaction.describe(argument) if isinstance(argument, Message) else argument
