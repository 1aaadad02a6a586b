"""Keys, tokens, tiers, addresses and the audit log as values, without any server."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from api.auth import audit, keys, tokens
from api.auth.access import Access, Denied
from api.auth.addresses import anonymised, client_address, group_of, is_loopback, read_networks
from api.auth.audit import Audit, Row
from api.auth.keys import Key
from api.auth.tiers import FREE, LOCAL, load_tiers
from api.auth.tokens import Grant, TokenRefused
from api.settings import ApiSettings
from marketdata.errors import SettingsError, Unavailable

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
MINUTES = timedelta(minutes=10)


def test_a_key_has_256_random_bits_and_is_found_by_its_prefix() -> None:
    """No two keys are alike; the hash is of all of it and the prefix is no secret."""
    made = [keys.make() for _ in range(200)]
    assert len({prefix for prefix, _ in made}) == len({text for _, text in made}) == 200
    for prefix, text in made:
        assert keys.prefix_of(text) == prefix
        assert len(bytes.fromhex(text.rpartition("_")[2])) == 32
        assert text.encode() not in keys.digest(text)


@given(text=st.text())
def test_a_text_of_another_form_is_no_key(text: str) -> None:
    """Whatever is sent as a key, only the exact form is looked up."""
    prefix, key = keys.make()
    assert keys.prefix_of(text) is None
    assert keys.prefix_of(key + text) == (prefix if not text else None)


def key(**more: Any) -> Key:
    """Return a key's record."""
    return msgspec.structs.replace(Key("0" * 12, b"x" * 32, "n", "o", frozenset({"stream"}), "standard", NOW), **more)


def test_a_key_ends_when_it_expires_or_is_revoked() -> None:
    """The end itself is already too late."""
    assert key().unusable(NOW) is None
    assert key(expires_at=NOW + MINUTES).unusable(NOW) is None
    assert key(expires_at=NOW).unusable(NOW) == "the API key has expired"
    assert key(revoked_at=NOW).unusable(NOW) == "the API key was revoked"


def grant(minutes: int = 10) -> Grant:
    """Return a grant that ends so many minutes from NOW."""
    return Grant("0" * 12, "standard", frozenset({"stream", "export"}), NOW + timedelta(minutes=minutes))


def signing(now: datetime = NOW) -> tokens.SigningKey:
    """Return a signing key."""
    return tokens.new_signing_key(now, timedelta(days=1), MINUTES)


def test_a_token_states_what_it_was_issued_for() -> None:
    """It verifies with the public part alone, until it expires."""
    signer = signing()
    public = [signing(), msgspec.structs.replace(signer, private=None)]
    token = tokens.issue(grant(), signer, NOW)
    assert tokens.verify(token, public, NOW) == grant()
    assert tokens.verify(token, public, NOW + timedelta(seconds=599)) == grant()
    with pytest.raises(TokenRefused, match="expired"):
        tokens.verify(token, public, NOW + MINUTES)
    with pytest.raises(TokenRefused, match="future"):
        tokens.verify(token, public, NOW - timedelta(seconds=6))


def test_a_retired_signing_key_verifies_until_its_last_token_has_expired() -> None:
    """A token of its last second, issued by a process that learned of the new key late, lives its whole life."""
    signer = signing()
    last = signer.signs_until + tokens.PROPAGATION - timedelta(seconds=1)
    token = tokens.issue(Grant("0" * 12, "standard", frozenset({"stream"}), last + MINUTES), signer, last)
    tokens.verify(token, [signer], last + MINUTES - timedelta(seconds=1))
    with pytest.raises(TokenRefused, match="retired"):
        tokens.verify(token, [signer], last + MINUTES + timedelta(seconds=1))


def _forged(header: dict[str, Any], claims: dict[str, Any], secret: Any, algorithm: str) -> str:
    return jwt.encode(claims, secret, algorithm=algorithm, headers=header)


def test_forged_tokens_are_refused() -> None:
    """Another algorithm, none, another key, another audience, another type, missing claims: each is refused."""
    signer = signing()
    private = Ed25519PrivateKey.from_private_bytes(signer.private or b"")
    good = tokens.issue(grant(), signer, NOW)
    header = {name: value for name, value in jwt.get_unverified_header(good).items() if name != "alg"}
    claims = jwt.decode(good, options={"verify_signature": False})
    other = Ed25519PrivateKey.generate()
    forged = [
        _forged(header, claims, None, "none"),
        _forged(header, claims, signer.public.hex() * 2, "HS256"),
        _forged(header, claims, other, "EdDSA"),
        _forged(header | {"kid": "unknown"}, claims, other, "EdDSA"),
        _forged(header | {"typ": "JWT"}, claims, private, "EdDSA"),
        _forged(header, claims | {"aud": "somebody-else"}, private, "EdDSA"),
        _forged(header, claims | {"iss": "somebody-else"}, private, "EdDSA"),
        _forged(header, claims | {"exp": "soon"}, private, "EdDSA"),
        _forged(header, claims | {"exp": 10**30}, private, "EdDSA"),
        *(
            _forged(header, {name: value for name, value in claims.items() if name != missing}, private, "EdDSA")
            for missing in claims
        ),
        good[:-4],
        good + "A" * 3000,
        "",
    ]
    for token in forged:
        with pytest.raises(TokenRefused):
            tokens.verify(token, [signer], NOW)
    tokens.verify(good, [signer], NOW)


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_changed_byte_of_a_token_verifies(position: int, bit: int) -> None:
    """Claims, header and signature are covered: a bit that is changed in any of them is noticed."""
    parts = tokens.issue(grant(), SIGNER, NOW).split(".")
    which = position % 3
    raw = bytearray(base64.urlsafe_b64decode(parts[which] + "=="))
    raw[position % len(raw)] ^= 1 << bit
    parts[which] = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    with pytest.raises(TokenRefused):
        tokens.verify(".".join(parts), [SIGNER], NOW)


SIGNER = signing()


@given(token=st.text(max_size=200))
def test_whatever_is_sent_as_a_token_is_refused_and_never_fails(token: str) -> None:
    """No text makes the check itself fail."""
    with pytest.raises(TokenRefused):
        tokens.verify(token, [SIGNER], NOW)


def test_a_signing_key_never_shows_its_private_part() -> None:
    """What is logged or printed of it is its id."""
    signer = signing()
    assert signer.private is not None
    assert repr(signer) == f"SigningKey({signer.kid})"


def test_the_tiers_of_the_file_include_those_of_clients_without_a_key() -> None:
    """The file that comes with the API is complete, and the free tier has the lowest limits of all."""
    tiers = load_tiers()
    assert {LOCAL, FREE} <= tiers.keys()
    for tier in tiers.values():
        assert tier.requests_per_second >= tiers[FREE].requests_per_second
        assert tier.sockets >= tiers[FREE].sockets


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no tier free, local"),
        ("[free]\nrequests_per_second = 0", "[free].requests_per_second"),
        ("[free", "tiers.toml"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_tiers_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, says: str) -> None:
    """The error names the setting and what is wrong."""
    file = tmp_path / "mine.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError, match="TICKSTREAM_API_TIERS") as error:
        load_tiers(file)
    assert says in str(error.value)


def test_forwarded_addresses_are_believed_only_of_trusted_proxies() -> None:
    """A client cannot choose its address, neither directly nor through a proxy."""
    trusted = read_networks("10.0.0.0/8, 127.0.0.1,::1", "X")
    assert client_address("203.0.113.9", "198.51.100.1", trusted) == "203.0.113.9"
    assert client_address("127.0.0.1", "198.51.100.1", ()) == "127.0.0.1"
    assert client_address("127.0.0.1", "198.51.100.1", trusted) == "198.51.100.1"
    assert client_address("127.0.0.1", "1.2.3.4, 198.51.100.1, 10.1.1.1", trusted) == "198.51.100.1"
    assert client_address("::ffff:10.0.0.1", "2001:db8::1", trusted) == "2001:db8::1"
    assert client_address("127.0.0.1", "nonsense", trusted) == "127.0.0.1"
    assert client_address(None, "1.2.3.4", trusted) == "unknown"
    with pytest.raises(SettingsError, match="MINE"):
        read_networks("10.0.0.0/8,everyone", "MINE")


@given(address=st.ip_addresses())
def test_an_anonymised_address_is_one_of_256_or_more(address: Any) -> None:
    """Addresses of one /24 or /48 become the same; the group that is limited is never larger than it."""
    text = str(address)
    if address.version == 4:
        assert anonymised(text) == f"{text.rpartition('.')[0]}.0/24"
        assert group_of(text) == text
    elif address.ipv4_mapped is None:
        assert anonymised(text).endswith("/48")
        assert group_of(text).endswith("/64")


def test_loopback_is_recognised_in_every_form() -> None:
    """Addresses of this machine, and no others."""
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.1", "example.com", "unknown")))


@pytest.mark.parametrize(
    "settings",
    [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "192.168.1.7"}, {"api_trusted_proxies": "127.0.0.1"}],
)
def test_the_api_does_not_start_open_to_others_unless_it_is_stated(settings: dict[str, Any]) -> None:
    """The error names both ways out; either one makes it start."""
    with pytest.raises(SettingsError) as error:
        Access(ApiSettings(**settings))
    assert "TICKSTREAM_API_ANONYMOUS=0" in str(error.value)
    assert "TICKSTREAM_API_ANONYMOUS=1" in str(error.value)
    assert "tickstream keys create" in str(error.value)
    assert not Access(ApiSettings(**settings, api_anonymous=False)).anonymous
    assert Access(ApiSettings(**settings, api_anonymous=True)).anonymous


def test_no_token_is_issued_before_a_signing_key_is_known() -> None:
    """The client is asked to try again."""
    with pytest.raises(Denied) as denied:
        Access(ApiSettings()).issue(key())
    assert (denied.value.status, denied.value.code) == (503, "tokens_unavailable")
    assert denied.value.wait_s > 0


class Shelf:
    """Where audit entries are stored, which may be away."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.away = False

    async def write(self, rows: Sequence[Row]) -> None:
        """Store rows."""
        if self.away:
            raise Unavailable("away")
        self.rows += rows


def test_the_audit_log_keeps_what_it_cannot_write_in_order_and_counts_what_does_not_fit() -> None:
    """An outage loses nothing up to the limit; beyond it, the newest are counted and lost."""
    shelf = Shelf()
    log = Audit(shelf.write, lambda: NOW, anonymise=True)
    dropped = audit.DROPPED._value.get()
    shelf.away = True
    for number in range(audit.WAITING_MAX + 7):
        log.note("key:a", "request.refuse", "rate_limited", "203.0.113.77", str(number))
    asyncio.run(log.flush())
    assert (len(log), audit.DROPPED._value.get()) == (audit.WAITING_MAX, dropped + 7)
    shelf.away = False
    asyncio.run(log.flush())
    assert len(shelf.rows) == audit.BATCH_MAX
    while len(log):
        asyncio.run(log.flush())
    assert [int(row[5]) for row in shelf.rows] == list(range(audit.WAITING_MAX))
    assert {row[4] for row in shelf.rows} == {"203.0.113.0/24"}
    assert json.dumps(shelf.rows[0][1:4]) == '["key:a", "request.refuse", "rate_limited"]'
