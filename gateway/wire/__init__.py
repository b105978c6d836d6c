"""Bytes to nouns and back. No sockets, no clock."""
