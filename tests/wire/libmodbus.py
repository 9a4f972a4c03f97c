"""The independent Modbus server of `libmodbus_server.c`, compiled once and run as a process."""

import asyncio
import atexit
import functools
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("libmodbus_server.c")


@functools.cache
def program() -> Path:
    """Compile the server; skips the test where that cannot be done."""
    if shutil.which("gcc") is None or shutil.which("pkg-config") is None:
        pytest.skip("needs gcc and pkg-config (apt install build-essential pkg-config)")
    if subprocess.run(["pkg-config", "--exists", "libmodbus"], check=False).returncode:
        pytest.skip("needs libmodbus (apt install libmodbus-dev)")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libmodbus"], check=True, capture_output=True, text=True
    ).stdout.split()
    folder = tempfile.mkdtemp(prefix="libmodbus-")
    atexit.register(shutil.rmtree, folder)
    made = Path(folder) / "libmodbus_server"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-o", str(made), str(_SOURCE), *flags], check=True)
    return made


class Server:
    """A running server."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def set(self, table: str, registers: dict[int, int]) -> None:
        for address, value in registers.items():
            assert await self._say(f"{table} {address} {value}") == "set"

    async def get(self, address: int) -> int:
        return int(await self._say(f"get {address}"))

    async def _say(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        return (await self.process.stdout.readline()).decode().strip()


@asynccontextmanager
async def server(*words: str) -> AsyncIterator[Server]:
    """Run it as "rtu DEVICE UNIT" or "tcp" until the block ends."""
    process = await asyncio.create_subprocess_exec(
        program(), *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        ready = (await process.stdout.readline()).split()
        assert ready[0] == b"ready"
        yield Server(process, int(ready[1]) if len(ready) > 1 else 0)
    finally:
        process.stdin.close()
        await process.wait()
