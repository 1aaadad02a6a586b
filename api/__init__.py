"""The query API: REST, WebSocket and the dashboard."""
