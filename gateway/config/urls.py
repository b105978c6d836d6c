"""Which URLs an operator can write."""

from __future__ import annotations

from urllib.parse import urlsplit


def is_token(text: str) -> bool:
    """Whether a header can carry it as it is."""
    return text.isascii() and not any(map(str.isspace, text))


def check_url(url: str, name: str = "base_url") -> None:
    """Raises ValueError, without the URL: it may hold a password where none should be."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number raises when it is read
    except ValueError:
        raise ValueError(f"{name} is not a URL like http://host:port/v1") from None
    if parts.scheme not in ("http", "https") or not host or not is_token(url):
        raise ValueError(f"{name} must start with http:// or https:// and a host")
    if parts.username is not None:
        raise ValueError(f"{name} must hold no user or password")
    if "?" in url or "#" in url:  # we put paths behind it
        raise ValueError(
            f"{name} must end with its path, as in http://host:port/v1, without ? and #"
        )


SHARED = ("redis://", "rediss://", "unix://")


def check_redis(url: str) -> None:
    """Raises ValueError, without the URL: it may hold a password."""
    from redis.asyncio.connection import ConnectionPool
    from redis.exceptions import RedisError

    if not url.startswith(SHARED):
        raise ValueError(f"redis must start with one of: {', '.join(SHARED)}")
    try:
        # which connects nowhere yet
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        raise ValueError(
            "redis is no URL that a client can use: it is like redis://:password@host:6379/0, and "
            "behind a ? has what redis-py calls its connection's arguments"
        ) from None
    database = urlsplit(url).path.strip("/")
    if database and not database.isdecimal() and not url.startswith("unix:"):
        raise ValueError("redis has a path that is no number of a database")
