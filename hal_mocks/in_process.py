"""The production daemon with a card reader in memory, for machines on which pcscd cannot run.

The only file here that imports from `edge`: it hands the daemon a reader through `ports.Reader`, the same
promise the PC/SC reader keeps. Cards come as hex numbers, one a line, over a Unix socket.

    python -m hal_mocks.in_process EDGE.toml CARDS.sock
"""

import asyncio
import sys
from pathlib import Path

from edge import clock, daemon, logs
from edge.errors import PeerError
from edge.events import CardSeen, CardUnreadable, DeviceFound
from edge.outside import Outside
from edge.ports import Put
from edge.rfid.apdu import credential, parse_atr
from edge.wiring import load_config

ISO14443A = parse_atr(bytes.fromhex("3B8F8001804F0CA000000306030001000000006A"))
"""What a MIFARE Classic 1K answers to reset (PC/SC part 3, supplement 1)."""


class MemoryReader:
    """Implements `ports.Reader`."""

    def __init__(self, reader_id: str, socket: Path) -> None:
        self._id = reader_id
        self._socket = socket

    async def run(self, put: Put) -> None:
        """Serve the socket until cancelled."""

        async def touched(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async for line in reader:
                now = clock.now_ms()
                try:
                    put(CardSeen(now, self._id, credential(bytes.fromhex(line.decode().strip()), ISO14443A)))
                except (ValueError, PeerError) as error:
                    put(CardUnreadable(now, self._id, str(error)))
            writer.close()

        async with await asyncio.start_unix_server(touched, self._socket) as server:
            put(DeviceFound(clock.now_ms(), f"reader/{self._id}"))
            await server.serve_forever()


def main() -> None:
    """Run until SIGTERM."""
    config_path, cards = Path(sys.argv[1]), Path(sys.argv[2])
    config = load_config(config_path)
    readers = {reader.id: MemoryReader(reader.id, cards) for reader in config.readers}
    with logs.start("info"):
        asyncio.run(daemon.run(config, Outside(readers=readers)))


if __name__ == "__main__":
    main()
