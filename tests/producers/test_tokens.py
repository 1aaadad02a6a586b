"""What logs in: Coinbase's tokens, signed and short-lived, and key pairs; none of it is ever stored."""

from __future__ import annotations

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from marketdata.errors import SettingsError
from producers.venues.alpaca.login import KeyPair
from producers.venues.coinbase.login import CoinbaseTokens

NOW_S = 1_800_000_000


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """Return a private key as people have it in a file."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_token_is_es256_and_lives_two_minutes() -> None:
    """The key's name, the issuer and the times are as Coinbase wants them; the public key verifies it."""
    key = ec.generate_private_key(ec.SECP256R1())
    for secret in (pem(key), pem(key).replace("\n", "\\n")):
        token = CoinbaseTokens("organizations/x/apiKeys/y", secret)(NOW_S * 1_000_000_000)
        claims = jwt.decode(token, key.public_key(), algorithms=["ES256"], options={"verify_exp": False,
                                                                                    "verify_nbf": False})  # fmt: skip
        assert claims == {"sub": "organizations/x/apiKeys/y", "iss": "cdp", "nbf": NOW_S, "exp": NOW_S + 120}
        assert jwt.get_unverified_header(token)["kid"] == "organizations/x/apiKeys/y"


def test_no_two_messages_share_a_token_and_none_is_stored() -> None:
    """Each has its own nonce; what is stored of a message has no token in it."""
    tokens = CoinbaseTokens("k", pem(ec.generate_private_key(ec.SECP256R1())))
    one, other = tokens(NOW_S), tokens(NOW_S)
    assert one != other
    assert tokens.redact(f"{one} {other}".encode()) == b"<token> <token>"


@pytest.mark.parametrize(
    "secret",
    ["", "nonsense", pem(ec.generate_private_key(ec.SECP384R1())), pem(rsa.generate_private_key(65537, 2048))],
    ids=["empty", "nonsense", "P-384", "RSA"],
)
def test_secret_that_cannot_sign_is_refused_by_name(secret: str) -> None:
    """The message names the variable and never shows the secret."""
    with pytest.raises(SettingsError, match="COINBASE_API_SECRET") as caught:
        CoinbaseTokens("k", secret)
    assert not any(line and line in str(caught.value) for line in secret.splitlines())


def test_key_pair_is_never_stored_and_leaves_the_bytes_counted() -> None:
    """Stars stand where the key and its secret were, in JSON and in msgpack, which still can be read."""
    pair = KeyPair("PK1", 's"1/x')
    sent = {"action": "auth", **msgspec.json.decode(pair(0))}
    assert sent == {"action": "auth", "key": "PK1", "secret": 's"1/x'}
    for codec, stars in ((msgspec.json, "******"), (msgspec.msgpack, "*****")):
        stored = pair.redact(codec.encode(sent))
        assert codec.decode(stored) == {"action": "auth", "key": "***", "secret": stars}
