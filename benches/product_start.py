"""How long the gateway takes to start, and how much memory it has."""

import statistics
import subprocess
import sys
import time
from typing import Any

from processes import Absent, Cores, clean_environment, open_running, wait_for
from product_parties import LANES, Gateway, Party
from product_table import reached, tell

AT_MOST_MS = {"--version": 150, "listening": 300}
IDLE_AT_MOST_MB = 60


def describe_starts(gateway: Gateway, lane: str, cores: Cores, times: int) -> list[dict[str, Any]]:
    """How long it takes from the start of the process until something has happened. Medians."""
    version, listening, ready = [], [], []
    environment = {"CONFIG_PATH": str(gateway.folder / "config.toml")}
    program = [sys.executable, "-m", "securellm"]
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run(
            [*program, "--version"], env=clean_environment(environment), check=True, stdout=subprocess.DEVNULL
        )
        version.append(time.perf_counter() - started)
        started = time.perf_counter()
        command = [*program, "serve", "--lane", lane]
        state = {"STATE_DIRECTORY": str(gateway.folder / "state"), "LOGS_DIRECTORY": str(gateway.folder / "audit")}
        log = gateway.folder / "start.txt"
        with open_running(command, cores.measured, log, environment | state) as running:
            try:
                wait_for(running, gateway.port, None, every_s=0.002)
                listening.append(time.perf_counter() - started)
                wait_for(running, gateway.port, "/readyz", every_s=0.002)
                ready.append(time.perf_counter() - started)
            except AssertionError as exc:
                if lane == "express" and "express lane" in str(exc):
                    raise Absent(str(exc).strip().splitlines()[-1]) from exc
                raise
    lines = []
    for what, taken in {"--version": version, "listening": listening, "first ready answer": ready}.items():
        value = round(statistics.median(taken) * 1000)
        line = tell(f"start: {what}") | {"party": gateway.name, "value": value, "unit": "ms", "rounds": taken}
        if what in AT_MOST_MS:
            line |= reached(value, AT_MOST_MS[what], AT_MOST_MS[what])
        lines.append(line)
    return lines


def describe_memory(parties: list[Party], what: dict[str, str]) -> list[dict[str, Any]]:
    """What each process has resident now (VmRSS), or had at most (VmHWM)."""
    described = []
    for case, name in what.items():
        for party in parties:
            assert party.running is not None
            line = tell(f"memory: {case}") | {"party": party.name, "unit": "MB"}
            line["value"] = round(party.running.memory_mb(name), 1)
            if case == "idle" and party.name in LANES:
                line |= reached(line["value"], IDLE_AT_MOST_MB, IDLE_AT_MOST_MB)
            described.append(line)
    return described
