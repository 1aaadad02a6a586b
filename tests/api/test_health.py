"""What the API's /healthz and /readyz report, and what they keep to themselves."""

from __future__ import annotations

from typing import Any

SECRET = "hunter2-S3cret"


def test_a_running_api_has_a_young_beat(shared: Any) -> None:
    """The loop's regular work was done lately, and everything is served."""
    state = shared.get("/healthz")
    assert state["status"] == "alive"
    assert state["beat_age_ms"] < 10_000
    ready = shared.get("/readyz")
    assert (ready["status"], ready["live"], ready["history"]) == ("ready", True, True)
    assert set(ready["checks"].values()) == {"ok"}


def test_addresses_with_passwords_appear_nowhere_without_being_masked(stage: Any, wait_for: Any) -> None:
    """Neither in readiness nor in the log, whose reasons name the address."""
    stage.start(TICKSTREAM_REGISTRY_URL=f"http://user:{SECRET}@127.0.0.1:9/apis/ccompat/v7")
    wait_for("the reason", lambda: "***@127.0.0.1:9" in stage.get("/readyz", 503)["checks"]["registry"])
    for path in ("/readyz", "/metrics", "/api/v1/status", "/api/v1/jobs"):
        assert SECRET not in stage.client.get(path).text
    assert SECRET not in stage.log.read_text()
