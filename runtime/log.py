"""JSON logs on standard error, one line per event, through structlog."""

from __future__ import annotations

import logging
import sys

import orjson
import structlog

from runtime.redaction import redacted, redacted_values


def configure(service: str, level: str = "info") -> None:
    """Write this process's logs, including the libraries', to standard error as JSON lines with the service's name."""

    def name_service(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service  # not a context variable, which other threads would not have
        return event

    def redact(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        cleaned: structlog.typing.EventDict = redacted_values(event)
        return cleaned

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_service,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                structlog.processors.JSONRenderer(
                    serializer=lambda event, **_: orjson.dumps(event, default=lambda each: redacted(str(each))).decode()
                ),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
