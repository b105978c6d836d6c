"""The GPU backend: torch and Triton. Importing this package imports neither."""
