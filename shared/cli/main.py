"""The `penstock` command: parses arguments and hands over to one module per subcommand.

Expected errors end in one line on standard error and exit code 2; a traceback is always a bug.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata

from shared.errors import ContractError, PenstockError

# Imported when they are asked for: `penstock contract check` needs neither Postgres nor the embedded stack.
COMMANDS = ("contract", "migrate", "up", "demo", "seed", "doctor")
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the process's exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser([argv[0]] if argv and argv[0] in COMMANDS else COMMANDS)
    parsed = parser.parse_args(argv)
    func: Callable[[argparse.Namespace], int] = parsed.func
    try:
        return func(parsed)
    except ContractError as exc:
        for problem in exc.problems:
            print(f"penstock: {problem}", file=sys.stderr)
        return 2
    except PenstockError as exc:
        print(f"penstock: {exc.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The argument parser with the named subcommands."""
    parser = argparse.ArgumentParser(
        prog="penstock", description="Drop a file in S3; every internal service reads it through a typed gRPC API."
    )
    parser.add_argument("--version", action="version", version=f"penstock {metadata.version('penstock')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands:
        import_module(f"shared.cli.{name}").add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
