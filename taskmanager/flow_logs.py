"""DBOS's log lines as ours: JSON, one handler, and none of the values it would quote."""

from __future__ import annotations

import logging
import traceback


class WithoutValues(logging.Filter):
    """Drops what tracebacks and reprs show; keeps the text, the error's name and its place."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage().partition("functools.partial(")[0]
        if record.exc_info and (error := record.exc_info[1]) is not None:
            frames = traceback.extract_tb(error.__traceback__)
            place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
            message = f"{message} {type(error).__name__}{place}"
        record.msg, record.args, record.exc_info, record.exc_text = message, (), None, None
        return True


_FILTER = WithoutValues()


def route() -> None:
    """Send DBOS's lines to our root handler instead of its own on the console."""
    logger = logging.getLogger("dbos")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.addHandler(logging.NullHandler())  # DBOS adds its own only where there is none
    logger.propagate = True
    logger.addFilter(_FILTER)
