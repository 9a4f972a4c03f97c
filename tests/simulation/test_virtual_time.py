"""A loop on virtual time: the world goes on while the loop waits, in an order that only the calls decide."""

import asyncio

import pytest

from hal_mocks.agenda import Agenda
from hal_mocks.virtual_time import VirtualTimeLoop, now_ms, run


class Killed(BaseException):
    """Ends a run from within the agenda."""


def test_a_day_of_waiting_takes_no_time() -> None:
    async def wait() -> int:
        await asyncio.sleep(86_400)
        return now_ms()

    assert run(wait()) == 86_400_000


def test_timers_and_the_agenda_happen_in_order_of_time() -> None:
    loop, seen = VirtualTimeLoop(), list[tuple[int, str]]()

    async def tick() -> None:
        for _ in range(3):
            await asyncio.sleep(0.010)
            seen.append((loop.now_ms(), "loop"))

    loop.agenda.at_ms(5, lambda: seen.append((5, "world")))
    loop.agenda.at_ms(25, lambda: seen.append((25, "world")))
    loop.run_until_complete(tick())
    loop.close()
    assert seen == [(5, "world"), (10, "loop"), (20, "loop"), (25, "world"), (30, "loop")]


def test_what_the_world_gives_the_loop_is_done_before_the_world_goes_on() -> None:
    loop, seen = VirtualTimeLoop(), list[str]()

    async def listen() -> None:
        news: asyncio.Queue[str] = asyncio.Queue()
        loop.agenda.at_ms(1, lambda: news.put_nowait("first"))
        loop.agenda.at_ms(2, lambda: seen.append("world"))
        seen.append(await news.get())
        await asyncio.sleep(0.005)

    loop.run_until_complete(listen())
    loop.close()
    assert seen == ["first", "world"]


def test_a_run_that_the_agenda_ends_can_go_on_where_it_stood() -> None:
    loop = VirtualTimeLoop()

    def kill() -> None:
        raise Killed

    task = loop.create_task(asyncio.sleep(1, "done"))
    loop.agenda.at_ms(300, kill)
    with pytest.raises(Killed):
        loop.run_until_complete(task)
    assert (loop.now_ms(), task.done()) == (300, False)
    assert loop.run_until_complete(task) == "done"
    assert loop.now_ms() == 1_000
    loop.close()


def test_sockets_within_the_process_answer_without_time_passing() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async def ask() -> tuple[bytes, int]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return answer, now_ms()

    assert run(ask()) == (b"hello\n", 0)


def test_a_loop_that_nothing_can_wake_says_so() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        run(wait())


# The agenda itself.


def test_what_is_due_at_one_instant_happens_as_it_was_asked_for() -> None:
    agenda, seen = Agenda(), list[int]()
    for number in range(50):
        agenda.at_ms(7, lambda number=number: seen.append(number))  # type: ignore[misc]  # mypy knows no such lambda
    agenda.pass_to(7_000)
    assert seen == list(range(50))


def test_what_is_cancelled_does_not_happen_and_the_past_is_now() -> None:
    agenda, seen = Agenda(), list[int]()
    agenda.at_ms(5, lambda: seen.append(5)).cancel()
    agenda.pass_to(10_000)
    agenda.at_ms(3, lambda: seen.append(agenda.now_ms))
    agenda.pass_to(10_000)
    assert seen == [10]
    with pytest.raises(ValueError, match="nothing will ever happen"):
        agenda.run_next()
