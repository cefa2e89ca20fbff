"""A process that writes an audit log under load until it is killed: python -m rig.audit_process DIRECTORY NAME.

Prints a line for each record, when it is durable.
"""

import os
import sys
import time
from pathlib import Path

import trio

from rig.audit_log import intent, sent, settings
from securellm.audit.log import AuditLog, open_audit_log

AT_ONCE = 50


def _now_us() -> int:
    return time.time_ns() // 1000


async def _requests(log: AuditLog, name: str) -> None:
    number = 0
    while True:
        number += 1
        reservation = log.reserve()
        for make in (intent, sent):
            record = make(f"{name}-{number}", _now_us(), requested_model="m" * (number % 2000))
            receipt = reservation.append(record)
            if make is sent:
                reservation.close()
            await receipt.durable()
            os.write(1, f"{record.request_id} {record.event_type}\n".encode())


async def main() -> None:
    async with open_audit_log(settings(Path(sys.argv[1])), now_us=_now_us, tick_s=0.02) as log:
        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE):
                nursery.start_soon(_requests, log, f"{sys.argv[2]}-{number}")


if __name__ == "__main__":
    trio.run(main)
