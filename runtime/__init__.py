"""The shell that all services share: settings, logs, metrics, health, traces, Kafka and registry clients."""
