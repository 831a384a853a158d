"""A client in a process of its own that takes whole streams, so that several of them do not share one interpreter.

`python -m tests.bench.stream_reader ADDRESS METHOD FILE` says "ready"; told "read", with the request in hex or nothing,
it says "all" once every message is here; told "keep" it says "kept" once the last stream's messages are in FILE.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from shared.client.channel import ClientTls, open_channel
from tests.bench.frames import CheckFailed, pack_messages, unpack_messages
from tests.bench.lab import Lab

READ, KEEP = "read", "keep"
_REPOSITORY = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """The process, for the one that has started it."""

    process: subprocess.Popen[str]
    kept: Path

    def begin(self, request: bytes) -> None:
        """Asks for a stream and does not wait for it."""
        self._tell(f"{READ} {request.hex()}")

    def await_end(self) -> None:
        """Returns when all messages are with the reader."""
        self.await_word("all")

    def received(self) -> Sequence[bytes]:
        """The messages of the last stream."""
        self._tell(KEEP)
        self.await_word("kept")
        return unpack_messages(self.kept.read_bytes())

    def await_word(self, word: str) -> None:
        """CheckFailed where the reader says another one, or has ended."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        if said != word:
            raise CheckFailed(f"the reader of a stream says {said!r}, expected {word!r}")

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()


@contextmanager
def reading(lab: Lab, method: str, name: str) -> Iterator[Reader]:
    """A reader that is connected to the query service; it ends with the block."""
    kept = lab.directory / f"{name}.bin"
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, lab.settings["PENSTOCK_QUERY_ADDRESS"], method, str(kept)],
        env={**os.environ, **lab.settings},
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:  # closing its stdin at the end is what ends it
        reader = Reader(process=process, kept=kept)
        reader.await_word("ready")
        yield reader
    kept.unlink(missing_ok=True)


def main(address: str, method: str, kept: str) -> None:
    """The process itself."""
    with open_channel(address, ClientTls.from_environment()) as channel:
        grpc.channel_ready_future(channel).result(_TIMEOUT_S)
        call = channel.unary_stream(method, None, None)
        _say("ready")
        responses: list[bytes] = []
        for line in sys.stdin:
            word, _, request = line.strip().partition(" ")
            if word == READ:
                responses = list(call(bytes.fromhex(request), timeout=_TIMEOUT_S))
                _say("all")
            else:
                Path(kept).write_bytes(pack_messages(responses))
                _say("kept")


def _say(word: str) -> None:
    print(word, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
