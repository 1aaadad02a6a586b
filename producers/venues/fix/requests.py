"""The MarketDataRequests of one FIX line: whose each is, which are given up, and how many answers have come."""

from __future__ import annotations

from marketdata.fix.codec import Fields

RETIRED_MAX = 1_000


class Requests:
    """The requests by their MDReqID (262); `in` is true of those that are open."""

    __slots__ = ("_made", "_names", "_reports", "_retired")

    def __init__(self) -> None:
        self._made = 0
        self._names: dict[str, str] = {}
        self._retired: dict[str, None] = {}
        self._reports: dict[str, int] = {}  # how many W of several have come

    def __contains__(self, request: str) -> bool:
        return request in self._names

    def number(self, ts: int) -> str:
        """Return an id that was never used before."""
        self._made += 1
        return f"{ts}-{self._made}"

    def open(self, name: str, ts: int) -> str:
        """Return the id of a new request for a symbol."""
        request = self.number(ts)
        self._names[request] = name
        return request

    def name_of(self, request: str) -> str:
        """Return the symbol of an open request, or an empty text."""
        return self._names.get(request, "")

    def refused(self, request: str) -> str | None:
        """Forget a request that the venue refused; return its symbol, None for one that is not open."""
        return self._names.pop(request, None)

    def retire(self, request: str) -> None:
        """Take no more answers to a request."""
        del self._names[request]
        self._reports.pop(request, None)
        self._retired[request] = None
        if len(self._retired) > RETIRED_MAX:
            del self._retired[next(iter(self._retired))]

    def retire_all(self) -> None:
        """Take no more answers to any request: the connection is gone."""
        for request in list(self._names):
            self.retire(request)

    def is_retired(self, request: str | None) -> bool:
        """Return whether a request was given up."""
        return request in self._retired

    def is_last(self, request: str, total: int) -> bool:
        """Count an answer to a request of which there are `total`; return whether it was the last."""
        came = self._reports.pop(request, 0) + 1
        if came >= total:
            return True
        self._reports[request] = came
        if len(self._reports) > RETIRED_MAX:
            del self._reports[next(iter(self._reports))]
        return False


def market_data(request: str, named: Fields, kind: str) -> Fields:
    """Return a MarketDataRequest: snapshot and updates (1) or no more (2), full book, bids, offers and trades."""
    return [(262, request), (263, kind), (264, "0"), (265, "1"), (267, "3"), (269, "0"), (269, "1"), (269, "2"),
            (146, "1"), *named]  # fmt: skip
