"""Which of how many processes this one is. Pure."""

from pathlib import Path

import msgspec


class Place(msgspec.Struct, frozen=True):
    """A process among those that serve together. `run_dir` is what they share; None when there is only one."""

    slot: int = 1  # from 1; also the writer slot of its audit log
    workers: int = 1
    run_dir: Path | None = None

    @property
    def first(self) -> bool:
        """What is to be done by one process only is done by this one."""
        return self.slot == 1

    @property
    def slots(self) -> range:
        """Every slot, its own included."""
        return range(1, self.workers + 1)


ALONE = Place()
