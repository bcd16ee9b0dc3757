"""The command line in a private working directory, as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path


def run_instaface(
    *arguments: str, cwd: Path, timeout: float = 420, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`instaface …` in a working directory of its own, with its own cache and Prefect database."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=private_environment(cwd) | environment, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip


def private_environment(cwd: Path) -> dict[str, str]:
    """The environment without what points at services and folders of others."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "AWS_", "INSTAFACE_", "RAY_"))}
    return {**inherited, "INSTAFACE_CACHE": str(cwd / "cache"), "COLUMNS": "200"}
