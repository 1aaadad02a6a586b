"""The stable codes of errors: what went wrong, for programs; `docs/reference/errors.md` lists them for people."""

from __future__ import annotations

import sys
from enum import StrEnum
from http import HTTPStatus


class Code(StrEnum):
    """What went wrong. A code is never renamed, and never gets another meaning."""

    BAD_PARAMETER = "bad_parameter"
    UNKNOWN_PARAMETER = "unknown_parameter"
    REPEATED_PARAMETER = "repeated_parameter"
    UNKNOWN_SYMBOL = "unknown_symbol"
    SYMBOL_NOT_AT_VENUE = "symbol_not_at_venue"
    AMBIGUOUS_SYMBOL = "ambiguous_symbol"
    UNKNOWN_KIND = "unknown_kind"
    AMBIGUOUS_KIND = "ambiguous_kind"
    NOTHING_STORED = "nothing_stored"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    MARKET_LOADING = "market_loading"
    HISTORY_UNAVAILABLE = "history_unavailable"
    QUERY_TOO_SLOW = "query_too_slow"
    KEY_REQUIRED = "key_required"
    KEY_UNKNOWN = "key_unknown"
    KEY_UNUSABLE = "key_unusable"
    BAD_AUTHORIZATION = "bad_authorization"
    SCOPE_MISSING = "scope_missing"
    DEPTH_LIMIT = "depth_limit"
    HISTORY_RANGE = "history_range"
    EXPORT_NOT_INCLUDED = "export_not_included"
    NO_SUCH_KEY = "no_such_key"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_WRONG_KEYS = "too_many_wrong_keys"
    KEYS_UNAVAILABLE = "keys_unavailable"
    TOKENS_UNAVAILABLE = "tokens_unavailable"
    INTERNAL_ERROR = "internal_error"


MEANINGS = {
    Code.BAD_PARAMETER: (422, "A parameter has a value that cannot be used; `errors` names both."),
    Code.UNKNOWN_PARAMETER: (422, "The route does not have this parameter; `errors` names those it has."),
    Code.REPEATED_PARAMETER: (422, "A parameter is given more than once."),
    Code.UNKNOWN_SYMBOL: (404, "No venue trades the symbol; `near` has symbols with a similar name."),
    Code.SYMBOL_NOT_AT_VENUE: (404, "The venue does not trade the symbol; `venues` are those that do."),
    Code.AMBIGUOUS_SYMBOL: (409, "Several venues trade the symbol: name one of `venues` in the parameter `venue`."),
    Code.UNKNOWN_KIND: (404, "The symbol is not traded as an instrument of this kind."),
    Code.AMBIGUOUS_KIND: (409, "The symbol means instruments of several kinds: name one in the parameter `kind`."),
    Code.NOTHING_STORED: (404, "Nothing is stored about what was requested."),
    Code.NOT_FOUND: (404, "The address does not exist; `/docs` lists those that do."),
    Code.METHOD_NOT_ALLOWED: (405, "The address does not support this method."),
    Code.NOT_ACCEPTABLE: (406, "The answer has none of the media types in `Accept`; the detail lists those it has."),
    Code.MARKET_LOADING: (503, "The API has just started and is still reading the market; `Retry-After` says when."),
    Code.HISTORY_UNAVAILABLE: (503, "The database does not respond. Live values are still answered."),
    Code.QUERY_TOO_SLOW: (503, "The query took longer than its limit; request a shorter range."),
    Code.KEY_REQUIRED: (401, "The API serves this only with an API key: `Authorization: Bearer tsk_...`."),
    Code.KEY_UNKNOWN: (401, "The API key is not known."),
    Code.KEY_UNUSABLE: (401, "The API key has expired or was revoked."),
    Code.BAD_AUTHORIZATION: (401, "The header `Authorization` is not `Bearer` with an API key."),
    Code.SCOPE_MISSING: (403, "The API key does not have the scope that this needs."),
    Code.DEPTH_LIMIT: (403, "The tier does not include books of this depth."),
    Code.HISTORY_RANGE: (403, "The tier does not include history of this age."),
    Code.EXPORT_NOT_INCLUDED: (403, "The tier includes JSON only."),
    Code.NO_SUCH_KEY: (404, "No API key has this prefix, or it can no longer be replaced."),
    Code.RATE_LIMITED: (429, "More requests than the tier includes; `Retry-After` says when to try again."),
    Code.TOO_MANY_WRONG_KEYS: (429, "Too many wrong API keys came from this address."),
    Code.KEYS_UNAVAILABLE: (503, "The database with the API keys does not respond."),
    Code.TOKENS_UNAVAILABLE: (503, "The database with the signing keys does not respond."),
    Code.INTERNAL_ERROR: (500, "The API failed; its log has the reason under the `trace_id` of the answer."),
}
# The code of an error that is nothing more special than its status.
_BY_STATUS = {
    HTTPStatus.NOT_FOUND: Code.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: Code.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_ACCEPTABLE: Code.NOT_ACCEPTABLE,
    HTTPStatus.UNPROCESSABLE_ENTITY: Code.BAD_PARAMETER,
    HTTPStatus.INTERNAL_SERVER_ERROR: Code.INTERNAL_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE: Code.HISTORY_UNAVAILABLE,
}


def code_of(status: HTTPStatus) -> str:
    """Return the code of a status: one of ours, else the status' own name, such as `too_many_requests`."""
    return _BY_STATUS.get(status, status.name.lower())


def reference() -> str:
    """Return the reference page of the codes as Markdown."""
    rows = [f"| `{code}` | {status} | {meaning} |" for code, (status, meaning) in MEANINGS.items()]
    return "\n".join([_PAGE, *rows, ""])


_PAGE = """\
# Errors

Every error is a problem (RFC 9457, <https://www.rfc-editor.org/rfc/rfc9457>) with the media type
`application/problem+json`. Programs read `code`, which never changes its meaning; people read `detail`. `errors` names
each parameter that cannot be used, with its value; `instance` is the path, and `trace_id` finds the request in the logs
and traces. Other errors of HTTP have the name of their status as their code, such as `too_many_requests`.
This page is generated: `python -m api.rest.codes > docs/reference/errors.md`.

| code | status | meaning |
|---|---|---|"""


if __name__ == "__main__":
    sys.stdout.write(reference())
