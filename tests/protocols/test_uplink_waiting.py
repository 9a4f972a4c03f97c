"""What waits in memory: the newest announcements with an honest count, and patient, bounded re-sending."""

from hypothesis import given
from hypothesis import strategies as st

from edge.uplink.schema import Announcement
from edge.uplink.waiting import Announcements, Tries


def said(number: int) -> Announcement:
    return Announcement(topic="t", text=str(number), connector=None, unix_ms=number, dropped=0)


@given(st.integers(1, 5), st.lists(st.sampled_from(["add", "send", "fail"])))
def test_every_announcement_is_sent_in_order_waits_or_is_counted_as_dropped(
    room: int, acts: list[str]
) -> None:
    ring, added, sent, dropped = Announcements(room), 0, [], 0
    held: Announcement | None = None  # taken, its fate is not known yet
    for act in [*acts, "fail", *["send"] * (room + 1)]:
        if act == "add":
            ring.add(said(added))
            added += 1
        elif held is not None:
            if act == "fail":
                ring.put_back(held)
            else:
                sent.append(held.unix_ms)
                dropped += held.dropped
            held = None
        else:
            held = ring.take()
    if held is not None:
        sent.append(held.unix_ms)
        dropped += held.dropped
    assert sent == sorted(set(sent))
    # What was dropped is told with the next one that is sent.
    assert len(sent) + dropped == (sent[-1] + 1 if sent else 0) or ring.take() is not None


@given(
    st.integers(1, 100),
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5), st.booleans())),
    st.randoms(use_true_random=False),
)
def test_an_unanswered_claim_is_due_again_after_at_least_half_and_at_most_all_of_its_wait(
    first_ms: int, doublings: int, steps: list[tuple[int, int, bool]], random: st.DataObject
) -> None:
    longest_ms = first_ms * 2**doublings
    tries = Tries(first_ms, longest_ms, random.uniform)  # type: ignore[attr-defined]  # it is a Random
    now_ms, waits = 0, dict.fromkeys(range(1, 6), first_ms)
    sent_ms: dict[int, int] = {}
    for passed_ms, seq, answer in steps:
        now_ms += passed_ms
        due = tries.due(now_ms)
        for waiting, since_ms in sent_ms.items():
            if now_ms >= since_ms + waits[waiting]:
                assert due is not None
        if due is not None:
            assert now_ms - sent_ms[due] >= (waits[due] - 1) // 2
        if answer:
            tries.answered(seq)
            sent_ms.pop(seq, None)
            waits[seq] = first_ms
        else:
            if seq in sent_ms:
                waits[seq] = min(longest_ms, 2 * waits[seq])
            tries.sent(seq, now_ms)
            sent_ms[seq] = now_ms
        assert all((s in tries) == (s in sent_ms) for s in range(1, 6))
        assert tries.in_flight(now_ms) <= len(sent_ms)
        following = tries.next_due_ms(now_ms)
        assert following is None or now_ms < following <= now_ms + longest_ms
