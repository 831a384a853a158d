"""`DIR/env`: the settings of a running stack as shell `export` lines, and what child processes inherit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from shared.errors import ConfigError
from shared.local.files import write_private

# Settings of another stack, profile or database would be taken for ours.
_NOT_INHERITED = ("AWS_", "PG")
_LOOPBACK_HOSTS = "127.0.0.1,localhost"


def write_environment(path: Path, values: Mapping[str, str]) -> None:
    """Writes all of the file or nothing; readable by its owner only, for it holds a password."""
    write_private(path, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items()))


def read_environment(path: Path) -> dict[str, str]:
    """The values in a file of `write_environment`; ConfigError where no stack is up."""
    try:
        text = path.read_text()
    except FileNotFoundError as exc:
        raise ConfigError(f"no stack is up in {path.parent}: run penstock up first", reason="NOT_UP") from exc
    words = (word for word in shlex.split(text) if word != "export")
    return dict(word.split("=", 1) for word in words)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child process gets of the caller's environment."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_NOT_INHERITED)}
    return {**kept, **without_proxy(environ)}


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """Settings that keep 127.0.0.1 away from proxies: botocore, urllib and gRPC all honour http_proxy."""
    names = {name: environ[name] for name in ("no_proxy", "NO_PROXY") if environ.get(name)}
    hosts = ",".join(dict.fromkeys([*names.values(), _LOOPBACK_HOSTS]))
    return {"no_proxy": hosts, "NO_PROXY": hosts}
