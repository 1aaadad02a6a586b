"""Every error that Tickstream raises on purpose.

TickstreamError
├── BadEvent            a value that no event may contain; names the field and the value
├── CodecError          bytes that are not one of our records
│   └── UnknownSchema   the registry does not know the schema id
├── SettingsError       a setting that cannot be used; names the variable
├── Refused             a venue rejects a request or the API key
└── Unavailable         Kafka, the database, Redis, the registry or a venue does not respond
"""


class TickstreamError(Exception):
    """Root of the tree; `str()` states what happened and what to do next."""


class BadEvent(TickstreamError):  # noqa: N818 - named for what it is about, like the others
    """A value that no event may contain.

    `reason` is a short word, used as a metric label; `field` and `value` are the invalid field and its value.
    """

    def __init__(self, reason: str, field: str, value: object) -> None:
        self.reason = reason
        self.field = field
        self.value = str(value)[:200]
        super().__init__(f"{reason}: {field} = {self.value!r}")


class CodecError(TickstreamError):
    """Bytes that are not one of our records."""


class UnknownSchema(CodecError):  # noqa: N818 - as above
    """The registry does not know the schema id of a record."""


class SettingsError(TickstreamError):
    """A setting that cannot be used; the message names the variable and what it takes."""


class Refused(TickstreamError):  # noqa: N818 - as above
    """A venue rejects a request or the API key; a retry does not help."""


class Unavailable(TickstreamError):  # noqa: N818 - as above
    """A service that we depend on does not respond; a later retry may help."""
