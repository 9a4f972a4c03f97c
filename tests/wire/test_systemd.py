"""What systemd, sysusers and polkit make of the files that are installed beside the daemon."""

import grp
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge import config
from edge.__main__ import EX_CONFIG

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "edge.service"

pytestmark = pytest.mark.wire


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False
    )


def station_root(tmp_path: Path, unit_text: str) -> Path:
    """Lay down a file system with the unit, the program it starts and the targets each service needs."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for target in ("basic.target", "sysinit.target"):
        (units / target).write_text("[Unit]\nDescription=stand-in\n")
    (units / "edge.service").write_text(unit_text)
    program = tmp_path / "opt/edge/bin/edge"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


def verify(root: Path) -> subprocess.CompletedProcess[str]:
    return run("systemd-analyze", "verify", f"--root={root}", "--man=no", "edge.service")


def settings(name: str) -> list[str]:
    """All values of a setting, in the order of the unit."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    result = verify(station_root(tmp_path, UNIT.read_text(encoding="utf-8")))
    assert (result.returncode, result.stderr) == (0, "")


def test_the_check_above_would_notice_a_misspelt_setting(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8").replace("LockPersonality", "LockPersonalty")
    assert "LockPersonalty" in verify(station_root(tmp_path, text)).stderr


def test_the_unit_stays_as_closed_as_it_can_be() -> None:
    """1.9 on systemd 252. It would be 1.5 without adjtimex, which a station needs to judge its clock."""
    result = run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=19", UNIT)
    assert result.returncode == 0, result.stdout[-200:]


def test_the_daemon_and_the_last_switch_off_read_the_same_configuration() -> None:
    (start,), (stop,) = settings("ExecStart"), settings("ExecStopPost")
    assert start == "/opt/edge/bin/edge run --config /etc/edge/edge.toml"
    assert stop == "-/opt/edge/bin/edge safe-off --config /etc/edge/edge.toml"


def test_a_station_comes_back_for_ever_except_from_a_wrong_configuration() -> None:
    assert settings("Restart") == ["always"]
    assert settings("StartLimitIntervalSec") == ["0"]
    assert settings("RestartPreventExitStatus") == [str(EX_CONFIG)]


def test_the_start_waits_for_nothing_that_needs_a_network() -> None:
    waits_for = set(" ".join(settings("After") + settings("Wants") + settings("Requires")).split())
    assert waits_for <= {"network.target", "time-set.target", "pcscd.socket"}


def test_the_system_calls_that_the_daemon_needs_are_allowed_after_their_groups_were_forbidden() -> None:
    """`clock.quality` asks with adjtimex (in glibc clock_adjtime), the local socket changes its group."""
    base, forbidden, needed = settings("SystemCallFilter")
    assert (base, forbidden) == ("@system-service", "~@privileged @resources")
    assert set(needed.split()) == {"adjtimex", "clock_adjtime", "@chown"}
    assert settings("ProtectClock") == []


def test_the_daemon_may_give_its_socket_to_the_group_that_sysusers_makes() -> None:
    sysusers = (SYSTEMD / "edge.sysusers.conf").read_text(encoding="utf-8")
    assert "\ng edge-local " in sysusers
    assert "edge-local" in settings("SupplementaryGroups")[0].split()


def test_sysusers_makes_the_user_of_the_unit_and_the_group_of_technicians(tmp_path: Path) -> None:
    place = tmp_path / "usr/lib/sysusers.d/edge.conf"
    place.parent.mkdir(parents=True)
    shutil.copy(SYSTEMD / "edge.sysusers.conf", place)
    result = run("systemd-sysusers", f"--root={tmp_path}", "--dry-run")
    assert result.returncode == 0, result.stderr
    told = result.stdout + result.stderr
    assert "user 'edge'" in told
    assert "group 'edge-local'" in told
    assert settings("User") == settings("Group") == ["edge"]


POLKIT = """
const rules = [];
const polkit = { Result: { YES: "yes", NOT_HANDLED: null }, addRule: (rule) => rules.push(rule) };
%s
const ask = (user, id) => rules.map((rule) => rule({ id }, { user })).find((answer) => answer) ?? null;
console.log(JSON.stringify(%s.map(([user, action]) => ask(user, "org.debian.pcsc-lite." + action))));
"""


def test_polkit_lets_the_service_user_reach_readers_and_cards_and_nobody_else() -> None:
    rules = (SYSTEMD / "edge-pcsc.rules").read_text(encoding="utf-8")
    questions = [
        (user, action) for user in ("edge", "games") for action in ("access_pcsc", "access_card", "x")
    ]
    result = run("node", "-e", POLKIT % (rules, json.dumps(questions)))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == ["yes", "yes", None, None, None, None]


def test_the_example_configuration_is_right() -> None:
    station = config.load(SYSTEMD / "edge.example.toml", frozenset({"sdm630"}))
    assert [outlet.number for outlet in station.site.outlets] == [1, 2]


def test_every_setting_that_the_example_shows_in_a_comment_can_be_switched_on(tmp_path: Path) -> None:
    text = (SYSTEMD / "edge.example.toml").read_text(encoding="utf-8")
    for name in ("ca.pem", "yard-1.pem", "yard-1.key", "mqtt.password"):
        (tmp_path / name).touch(mode=0o640)
    group = grp.getgrgid(os.getgid()).gr_name
    text = text.replace("/etc/edge/", f"{tmp_path}/").replace('"edge-local"', f'"{group}"')
    switched_on, settings_found = re.subn(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    assert settings_found > 15
    station = config.read_config(switched_on, tmp_path, frozenset({"sdm630"}))
    assert station.uplink is not None
    assert station.uplink.tls is not None
    assert (station.paths.local_group, station.uplink.port) == (group, 8883)
