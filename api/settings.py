"""Settings of the query API."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, FilePath, SecretStr, model_validator

from runtime.settings import DatabaseSettings


class ApiSettings(DatabaseSettings):
    """What the query API needs beside what every service does."""

    api_port: int = Field(
        default=8080, ge=0, le=65535, description="Port of REST, WebSocket and dashboard; 0 finds a free one."
    )
    api_hosts: str = Field(
        default="",
        description="Names by which the API is reached, separated by commas, beside the loopback names, the address "
        "that it listens on and the address that a client connects to. Other hosts are refused with 421.",
    )
    api_origins: str = Field(
        default="",
        description="Origins of other hosts' web pages that may use the API, such as https://app.example.com, "
        "separated by commas; * for all. Without any, only pages of the API's own host may open a WebSocket, and no "
        "CORS headers are sent.",
    )
    api_trusted_proxies: str = Field(
        default="",
        description="Addresses or networks (CIDR) of proxies whose X-Forwarded-For and X-Forwarded-Proto are used, "
        "separated by commas; none by default.",
    )
    api_tls_certificate: FilePath | None = Field(
        default=None, description="Certificate chain (PEM); with it the API serves TLS 1.3 alone."
    )
    api_tls_key: FilePath | None = Field(
        default=None, description="Private key (PEM) of the certificate, if it is in a file of its own."
    )
    api_head_s: float = Field(
        default=10.0, gt=0, description="Time in which the whole head of a request, and a TLS handshake, must arrive."
    )
    api_body_s: float = Field(default=30.0, gt=0, description="Time in which the whole body of a request must arrive.")
    api_idle_s: float = Field(default=30.0, gt=0, description="Time that a connection may be idle between requests.")
    api_send_s: float = Field(
        default=30.0, gt=0, description="Time after which a client that does not read its response is disconnected."
    )
    api_connections_max: int = Field(
        default=6_000, ge=1, description="Connections at most, WebSockets among them; more are closed at once."
    )
    api_database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL address of the API's own role; the common address when not given."
    )
    database_pool_max: int = Field(default=8, ge=1, le=64, description="Connections to the database at most.")
    query_timeout_ms: int = Field(default=5_000, ge=10, le=60_000, description="Time limit of one query.")
    recipes: Path | None = Field(
        default=None,
        description="File of recipes of the stream apps, so that bars can be requested by the name of their recipe "
        "before the first one arrives.",
    )
    stale_s: float = Field(
        default=10.0,
        gt=0,
        description="A value received longer ago is not valid; in a replay, by the recorder's clock.",
    )
    api_workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that hold WebSocket clients; 1 means that the market's own process does. A process can "
        "open a limited number of files, and uses one core.",
    )
    ws_clients_max: int = Field(default=2_000, ge=1, description="WebSocket connections at most.")
    ws_subscriptions_max: int = Field(default=1_000, ge=1, description="Streams of one WebSocket connection at most.")
    ws_conflate_bytes: int = Field(
        default=1024 * 1024, ge=16 * 1024, description="Unsent bytes from which a client gets only latest states."
    )
    ws_cut_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=32 * 1024,
        description="Unsent bytes at which a client of a channel without conflation is disconnected.",
    )
    ws_resume_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="Bytes of sent messages that are kept, so that clients that lost their connection can resume.",
    )
    ws_ping_s: float = Field(
        default=20.0,
        gt=0,
        description="Silence after which a WebSocket client is pinged, and time to answer: a half-open connection is "
        "noticed within twice this time.",
    )

    api_anonymous: bool | None = Field(
        default=None,
        description="Whether clients without an API key are served. Not set: only those on this machine; the API then "
        "refuses to start where others can reach it.",
    )
    api_tiers: Path | None = Field(default=None, description="File of tiers that replaces api/auth/tiers.toml.")
    api_token_s: int = Field(
        default=600, ge=1, le=86_400, description="Lifetime of a token for the WebSocket, seconds."
    )
    api_signing_key_days: float = Field(
        default=30.0, gt=0, le=3_650, description="Days after which tokens are signed with a new key."
    )
    api_anonymise_addresses: bool = Field(
        default=False, description="Store clients' addresses in the audit log as /24 (IPv4) or /48 (IPv6)."
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis that limits requests over all API processes; each process limits on its own without it.",
    )

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.api_tls_key is not None and self.api_tls_certificate is None:
            raise ValueError("a key without a certificate: set TICKSTREAM_API_TLS_CERTIFICATE")
        if self.api_tls_certificate is not None and self.api_workers > 1:
            raise ValueError(
                "TLS in process and several workers cannot go together: an encrypted connection cannot be handed over; "
                "set TICKSTREAM_API_WORKERS=1, or end TLS in a proxy such as nginx"
            )
        return self

    @property
    def dsn(self) -> str:
        """Return the PostgreSQL address to use."""
        return (self.api_database_url or self.database_url).get_secret_value()


def items(text: str) -> list[str]:
    """Return the items of a setting that separates them by commas."""
    return [item.strip() for item in text.split(",") if item.strip()]
