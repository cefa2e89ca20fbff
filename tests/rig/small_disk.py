"""The audit log on a real file system that is full or read-only: python -m rig.small_disk DIRECTORY full|read-only.

Runs where DIRECTORY is a mount of its own, of 256 KiB. Prints what happened as JSON.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from rig.audit_log import Running, intent, read_chain, sent, settings
from rig.waiting import until_true
from securellm.audit.log import open_audit_log
from securellm.errors import AuditUnavailable, ConfigError


async def fill(directory: Path) -> dict[str, Any]:
    """Requests until the disk is full, then room again."""
    ballast = directory / "ballast"
    ballast.write_bytes(bytes(64 * 1024))
    appended: list[tuple[str, str]] = []
    found: dict[str, Any] = {"durable": 0}
    async with open_audit_log(settings(directory / "log"), now_us=Running(), retry_s=0.01) as log:
        for number in range(10_000):
            name = f"r{number}"
            reservation = log.reserve()
            try:
                for record in (intent(name, requested_model="m" * 200), sent(name)):
                    appended.append((name, record.event_type))
                    await reservation.append(record).durable()
                    found["durable"] += 1
            except AuditUnavailable as error:
                found["refused"] = error.message
                if appended[-1][1] == "request_received":
                    reservation.append(sent(name))
                    appended.append((name, "response_sent"))
                break
            finally:
                reservation.close()
        try:
            log.reserve()
        except AuditUnavailable as error:
            found["reserving"] = error.message
        ballast.unlink()
        await until_true(lambda: log.statistics().available)
        reservation = log.reserve()
        await reservation.append(intent("after")).durable()
        await reservation.append(sent("after")).durable()
        reservation.close()
        found["healed"] = True
        found["gap"] = log.statistics().gap
    there = {(record.get("request_id"), record["event_type"]) for record in read_chain(directory / "log")}
    found["lost"] = [one for one in appended if one not in there]
    return found


async def start_read_only(directory: Path) -> dict[str, Any]:
    """A directory that was writable once."""
    async with open_audit_log(settings(directory / "log"), now_us=Running()):
        pass
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
    try:
        async with open_audit_log(settings(directory / "log"), now_us=Running()):
            return {}
    except ConfigError as error:
        return {"refused": error.message}


async def main() -> None:
    directory, scenario = Path(sys.argv[1]), sys.argv[2]
    with trio.fail_after(30):
        print(json.dumps(await (fill if scenario == "full" else start_read_only)(directory)))


if __name__ == "__main__":
    trio.run(main)
