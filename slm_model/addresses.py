"""Addresses of servers that a user's environment names: a login in one would be shown and stored, so it is refused."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from slm_model.errors import UserError

# Variables that hold an address, and where its login belongs.
LOGINS = {
    "PREFECT_API_URL": "PREFECT_API_AUTH_STRING=USER:PASSWORD",
    "MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "HF_ENDPOINT": "HF_TOKEN",
}
LOGIN = re.compile(r"(?<=://)[^\s'\"]*@")  # also with a password that should have been percent-encoded


def hide_login(text: str) -> str:
    """The text, with *** for the user and password of every address in it."""
    return LOGIN.sub("***@", text)


def refuse_logins() -> None:
    """Raises UserError if a variable's address has a login in it."""
    for name, instead in LOGINS.items():
        address = os.environ.get(name, "")
        if address.startswith(("http://", "https://")) and "@" in urlsplit(LOGIN.sub("@", address)).netloc:
            raise UserError(
                f"{name} is {hide_login(address)}, whose login would be shown and stored with every run: leave it out "
                f"of the address and set {instead}"
            )
