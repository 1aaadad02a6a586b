"""What a venue declares of itself is what its feed does."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import producers.venues
from producers.venues import VENUES, find_venue, make_feed
from producers.venues.kit.feed import VenueFeed
from tests.producers.conformance.cases import EACH, EACH_ORDERED, TABLE, Case, recorded
from tests.producers.conformance.player import Player


def test_every_feed_is_in_the_table() -> None:
    """A venue without a case is not proven."""
    assert set(TABLE) == set(VENUES)
    assert all(case.venue == venue for venue, row in TABLE.items() for case in row.recordings)


def test_every_folder_with_a_feed_is_a_venue() -> None:
    """Python finds no package in a folder without `__init__.py`, so its venue would be missing without an error."""
    folders = {path.parent for path in Path(producers.venues.__file__).parent.glob("*/feed*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", sorted(VENUES))
def test_venue_and_feed_state_the_same_facts(name: str) -> None:
    """The shell counts a venue's channels against its limits, and history repairs the gaps of its trades' channel."""
    venue = find_venue(name)
    feed = make_feed(name, products=venue.products)
    assert venue.amends_trades == getattr(feed, "amends_trades", False)
    if isinstance(feed, VenueFeed):
        assert venue.sequence_scope == feed.sequence_scope
        assert venue.trades_channel == feed.trades_channel
        assert venue.channels == feed.channels
        assert venue.limits == feed.limits


@EACH_ORDERED
def test_venue_says_what_proves_its_order(case: Case) -> None:
    """Where lost frames are noticed, as the tests below hold, the facts state by what."""
    venue = find_venue(case.venue)
    assert venue.sequence != "none" or venue.checksum
    assert venue.checksum or case.proven is None


@pytest.mark.parametrize("venue", sorted(VENUES))
def test_theory_names_the_document_that_states_whose_side_a_trade_has(venue: str) -> None:
    """Venues differ, and a feed that guesses is right on half of them; that of a family may stand there."""
    make = find_venue(venue).make
    module = import_module(getattr(make, "func", make).__module__)  # of a partial, what it completes
    makers = {getattr(value, "__module__", "") for value in vars(module).values()}
    families = [import_module(name) for name in sorted(makers) if name.startswith("producers.venues.")]
    theories = [" ".join((each.__doc__ or "").split()) for each in (module, *families)]
    sentences = [sentence for theory in theories for sentence in re.split(r"(?<=\.) (?=[A-Z`])", theory)]
    published = [one for one in sentences if re.search(r"(?i)\b(aggressor|taker|maker)", one)]
    assert any(re.search(r'\((?:DOCS|FIX|")', sentence) for sentence in published), "it cites no document"


@EACH
def test_venue_says_whether_its_trade_ids_show_what_is_missing(case: Case) -> None:
    """Those that rise by one: then the gap scan looks for gaps among the ids that are stored."""
    player = Player(case)
    player.open(recorded(case)[0].ts_recv)
    for line in recorded(case):
        player.play(line)
    numbers = [sorted(map(int, ids)) for ids in player.trades.values() if len(ids) > 2 and all(map(str.isdigit, ids))]
    rising = [ids[-1] - ids[0] == len(ids) - 1 for ids in numbers]
    assert all(rising) if find_venue(case.venue).numbers_trades else not any(rising)
