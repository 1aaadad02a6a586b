"""Every error that Tickstream raises on purpose.

TickstreamError
├── BadEvent            a value that no event may hold; names the field and the value
├── CodecError          bytes that are not a record of ours
│   └── UnknownSchema   the registry does not know the schema id
├── SettingsError       a setting that cannot be used; names the variable
├── Refused             a venue answers that a request, or the key, is wrong
└── Unavailable         Kafka, the database, Redis, the registry or a venue does not answer
"""


class TickstreamError(Exception):
    """Root of the tree; `str()` says what happened and what to do next."""


class BadEvent(TickstreamError):  # noqa: N818 - named for what it is about, like the others
    """A value that no event may hold.

    `reason` is a short word fit for a metric label, `field` and `value` name the culprit.
    """

    def __init__(self, reason: str, field: str, value: object) -> None:
        self.reason = reason
        self.field = field
        self.value = str(value)[:200]
        super().__init__(f"{reason}: {field} = {self.value!r}")


class CodecError(TickstreamError):
    """Bytes that are not a record of ours."""


class UnknownSchema(CodecError):  # noqa: N818 - as above
    """The registry does not know the schema id that a record names."""


class SettingsError(TickstreamError):
    """A setting that cannot be used; the message names the variable and what it takes."""


class Refused(TickstreamError):  # noqa: N818 - as above
    """A venue answers that a request, or the key, is wrong; asking again does not help."""


class Unavailable(TickstreamError):  # noqa: N818 - as above
    """A service that we depend on does not answer; retrying later may help."""
