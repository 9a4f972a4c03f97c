"""What the documents show is what the program says."""

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "sharing.md"


def block(text: str, kind: str) -> str:
    """Return the first fenced block of this kind."""
    return text.partition(f"```{kind}\n")[2].partition("```")[0]


def test_the_example_of_five_connectors_is_what_edge_share_answers(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    example = tmp_path / "five.json"
    example.write_text(block(text, "json"), encoding="utf-8")
    answer = subprocess.run(
        [sys.executable, "-m", "edge", "share", str(example), "--explain"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    shown = block(text.partition("compares this page")[2], "")
    assert shown.startswith("connector  circuit")
    assert answer.startswith(shown)
    assert "1.000 A are missing" in answer
