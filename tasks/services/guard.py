"""What a server on loopback refuses: other sites' pages, other names of this machine, and whoever lacks the login.

Without these, every web page that the user opens, and every account of the machine, could use the servers as the user.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")


class Guard:
    """Middleware: answers what ``refusal`` returns for a request's headers; without one the application answers. Lets
    no page of another site show one of ours in a frame."""

    def __init__(self, app: ASGIApp, refusal: Callable[[Headers], Response | None]) -> None:
        self.app, self.refusal = app, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = None if scope["type"] == "lifespan" else self.refusal(Headers(scope=scope))
        if refused is None:
            await self.app(scope, receive, without_frames(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
        else:
            await refused(scope, receive, send)


def other_site(headers: Headers) -> Response | None:
    """Refuses a request that a page of another site sends, also under a name that was made to mean this machine (DNS
    rebinding)."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not OWN_HOST.fullmatch(hosts[0]):
        named = ", ".join(hosts) or "nothing"
        return PlainTextResponse(f"The address names {named}: open this server as 127.0.0.1 or localhost.\n", 403)
    # A browser says so of a picture or a script, which have no origin. A link to a whole page is welcome.
    elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    own = (f"http://{hosts[0]}", f"https://{hosts[0]}")
    if (elsewhere and not link) or any(origin not in own for origin in headers.getlist("origin")):
        return PlainTextResponse("This server does not answer pages of other sites.\n", 403)
    return None


def lacks_login(headers: Headers, login: str) -> Response | None:
    """Refuses a request without this login (USER:PASSWORD). A browser then asks for it."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    wanted = base64.b64encode(login.encode()).decode()
    if kind.lower() == "basic" and hmac.compare_digest(given.strip().encode(), wanted.encode()):
        return None
    asks = {"WWW-Authenticate": 'Basic realm="slm up"'}
    return PlainTextResponse("`slm up` prints a link with the login.\n", 401, headers=asks)


def without_frames(send: Send) -> Send:
    """Sends answers that no page of another site may show in a frame."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append("Content-Security-Policy", "frame-ancestors 'self'")
        await send(message)

    return sending
