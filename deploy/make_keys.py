"""Makes the keys that docker-compose.yml's services share, once: what is there stays.

Named volumes belong to root when they are new; the services run as somebody else.
"""

import os
import secrets
import sys
from pathlib import Path

USER = 10001


def make_keys(folder: Path) -> None:
    file = folder / "gateway.env"
    if file.exists():
        return
    names = ("GATEWAY_KEY", "GATEWAY_ADMIN_KEY", "GATEWAY_REPLICA_SECRET")
    keys = {name: secrets.token_urlsafe(32) for name in names}
    write(folder / "admin.key", keys["GATEWAY_ADMIN_KEY"])  # alone, as Prometheus reads it
    # Last, since it says that all is done.
    write(file, "".join(f"{name}={key}\n" for name, key in keys.items()))


def write(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.rename(file)


def main(keys: Path, *others: Path) -> None:
    make_keys(keys)
    for path in (keys, *keys.iterdir(), *others):
        os.chown(path, USER, USER)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
