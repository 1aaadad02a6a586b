"""Errors of the client.

ClientError
├── ApiError     the API answered with a problem
└── Refused      the API refused a subscription
"""


class ClientError(Exception):
    """Root of the tree."""


class ApiError(ClientError):
    """A `problem+json` answer."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")


class Refused(ClientError):  # noqa: N818 - it is an answer of the API
    """A subscription that the API refused; `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(f"{code}: {message}")
