"""The endpoints and what we know of them: load, health, caches."""
