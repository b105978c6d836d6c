"""HTTP in. Knows requests and responses, no endpoint."""
