"""`securellm audit`: everything that reads, checks and keeps the audit log, whether the gateway runs or not."""

import click

from securellm.cli.group import Command, LazyGroup

AUDIT_COMMANDS: dict[str, Command] = {
    "query": Command("audit_query", "Find requests and events."),
    "show": Command("audit_show", "Show the whole story of one request."),
    "tail": Command("audit_tail", "Show the newest records, and follow."),
    "export": Command("audit_export", "Write records as JSON lines or CSV."),
    "verify": Command("audit_verify", "Check the chain, the checkpoints and every file."),
    "public-key": Command("audit_verify", "Print the key that checkpoints are checked with."),
    "recompute": Command("audit_recompute", "Compute past costs again from the recorded usage."),
    "rebuild": Command("audit_rebuild", "Fill the index of the database anew from the files."),
    "seal": Command("audit_keep", "Close the chain of a slot that no process writes."),
    "prune": Command("audit_keep", "Delete what is older than the retention, now."),
    "erase": Command("audit_keep", "Delete the recorded bodies of a request; the chain stays."),
}


@click.group(cls=LazyGroup, known=AUDIT_COMMANDS)
def audit() -> None:
    """Read, check and keep the audit log.

    Works on the files, whether the gateway runs or not.
    """
