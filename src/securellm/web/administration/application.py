"""The application of administration: its own list of endpoints, served by its own sockets only.

Nothing on it is public, none of its answers is for a browser's page of another origin, and there is no other list: what
is not here is 404.
"""

from typing import Any

from securellm.web.administration import budgets, keys, owners, schemas, watching
from securellm.web.administration.asking import Asking, endpoint
from securellm.web.app import EdgeApp
from securellm.web.routes import Route
from securellm.web.seam import Runtime


async def show_document(asking: Asking) -> Any:
    """This list as an OpenAPI 3.1 document."""
    return asking.document


ROUTES: tuple[Route, ...] = (
    *keys.ROUTES,
    *owners.ROUTES,
    *budgets.ROUTES,
    *watching.ROUTES,
    endpoint("GET", "/openapi.json", show_document, "This list as an OpenAPI 3.1 document", schemas.DOCUMENT),
)


def admin_app(runtime: Runtime) -> EdgeApp:
    """The application, made of the runtime that the gateway's own port serves, too."""
    return EdgeApp(runtime, ROUTES, for_browsers=False)
