"""What the benchmark ran on, in one line, and how busy the machine was before it began."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psycopg


def machine_line(database_url: str, rows: int) -> str:
    """CPU, cores, memory, kernel, Python, Postgres, load, rows."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with psycopg.connect(database_url) as connection:
        postgres = connection.info.parameter_status("server_version")
    return ", ".join(
        (
            _cpu_model(),
            f"{os.cpu_count()} cores",
            f"{memory_bytes / 2**30:.0f} GiB",
            f"{platform.system()} {platform.release()}",
            f"Python {platform.python_version()}",
            f"Postgres {postgres}",
            f"load average at start {os.getloadavg()[0]:.1f}",
            f"{rows:,} rows",
        )
    )


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
