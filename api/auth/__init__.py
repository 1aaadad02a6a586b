"""Who may use the API, and how much: keys, tokens, tiers, limits and the audit log. No web framework, no sockets."""
