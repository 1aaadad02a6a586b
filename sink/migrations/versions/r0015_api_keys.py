"""Make the tables of the API's access control: keys, keys that sign tokens, and the audit log.

`api_keys.hash` is the SHA-256 of the whole key; the key itself is stored nowhere. `changed_at` moves with every change
that affects access, so that each API process finds changes by time. `api_signing_keys.private_key` is NULL once the key
no longer signs.
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_KEYS = """
CREATE TABLE api_keys (
    prefix          text        PRIMARY KEY,
    hash            bytea       NOT NULL CHECK (length(hash) = 32),
    name            text        NOT NULL,
    owner           text        NOT NULL,
    scopes          text[]      NOT NULL,
    tier            text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz,
    revoked_at      timestamptz,
    replaced_by     text        REFERENCES api_keys (prefix),
    last_used_at    timestamptz,
    changed_at      timestamptz NOT NULL DEFAULT now()
)
"""
_SIGNING_KEYS = """
CREATE TABLE api_signing_keys (
    kid             text        PRIMARY KEY,
    private_key     bytea,
    public_key      bytea       NOT NULL CHECK (length(public_key) = 32),
    created_at      timestamptz NOT NULL,
    signs_until     timestamptz NOT NULL,
    verifies_until  timestamptz NOT NULL
)
"""
_AUDIT = """
CREATE TABLE api_audit (
    ts              timestamptz NOT NULL,
    who             text        NOT NULL,
    action          text        NOT NULL,
    outcome         text        NOT NULL,
    address         text        NOT NULL,
    detail          text        NOT NULL
)
"""
_AUDIT_BY_DAY = (
    "SELECT create_hypertable('api_audit', 'ts', chunk_time_interval => INTERVAL '1 day', "
    "create_default_indexes => false)"
)


def upgrade() -> None:
    """Make the tables; they are new, so no lock delays anyone."""
    for statement in (
        _KEYS,
        "CREATE INDEX api_keys_by_change ON api_keys (changed_at)",
        _SIGNING_KEYS,
        _AUDIT,
        _AUDIT_BY_DAY,
        "CREATE INDEX api_audit_by_time ON api_audit (ts DESC)",
        "CREATE INDEX api_audit_by_who ON api_audit (who, ts DESC)",
    ):
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables; every key is then unknown."""
    for table in ("api_audit", "api_signing_keys", "api_keys"):
        op.execute(f"DROP TABLE {table}")
