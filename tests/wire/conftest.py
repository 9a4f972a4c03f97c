"""A pcscd for the tests of this folder."""

import os
from collections.abc import Iterator

import pytest

from hal_mocks.pcscd import Pcscd


@pytest.fixture(scope="session")
def pcscd_of_this_run() -> Iterator[Pcscd]:
    """One place for pcscd in the whole run: libpcsclite looks up the socket's path once per process."""
    with Pcscd() as service:
        if (reason := service.why_not()) is not None:
            pytest.skip(reason)
        before = dict(os.environ)
        os.environ.update(service.environment)
        yield service
        for name in service.environment.keys() - before.keys():
            del os.environ[name]


@pytest.fixture
def pcscd(pcscd_of_this_run: Pcscd) -> Iterator[Pcscd]:
    """A pcscd that has just started with an empty virtual reader."""
    pcscd_of_this_run.start()
    yield pcscd_of_this_run
    pcscd_of_this_run.stop()


@pytest.fixture
def own_pcscd(pcscd: Pcscd) -> Pcscd:
    """Like `pcscd`, for tests that kill it."""
    if not pcscd.restartable:
        pytest.skip("the pcscd of this machine is not ours to kill")
    return pcscd
