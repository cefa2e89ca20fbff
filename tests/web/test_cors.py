"""What a page in a browser may read of an answer."""

import re
from pathlib import Path

from securellm.web import cors

API_PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_header_of_ours_can_be_read() -> None:
    """Each header in the table of our own headers is exposed to a listed origin, so that a page can tell it."""
    table = API_PAGE.read_text(encoding="utf-8").partition("## Headers of ours")[2].partition("\n## ")[0]
    ours = {name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`([a-z-]+)`", row)}
    exposed = dict(cors.answer_headers(b"https://page.test"))[b"access-control-expose-headers"].decode().split(", ")
    assert len(ours) > 5
    assert {name for name in ours if name.startswith(("x-", "request-"))} <= set(exposed)
