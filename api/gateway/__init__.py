"""WebSocket: sockets, subscriptions and fan-out."""
