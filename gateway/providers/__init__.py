"""How to speak to an endpoint. Knows dialects and sockets, no policy."""
