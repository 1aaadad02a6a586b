"""The shapes of the answers for the OpenAPI description, by route; tests hold the real answers to them."""
