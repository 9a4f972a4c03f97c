"""The sharing kernel's file as plain Python, beside the compiled build that the product runs."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from edge.control import sharing


def plain_build() -> ModuleType:
    """Import edge/control/sharing.py itself, not the extension module made from it."""
    path = Path(sharing.__file__).parent / "sharing.py"
    spec = importlib.util.spec_from_file_location("plain_sharing", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["plain_sharing"] = module
    spec.loader.exec_module(module)
    return module
