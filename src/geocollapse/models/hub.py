"""The Hugging Face hub: its cache, and no waiting without a network."""

from __future__ import annotations

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


def hub_cache() -> str:
    """The folder in which huggingface_hub keeps its downloads."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


@contextmanager
def without_waiting() -> Iterator[None]:
    """Put the hub offline if its address cannot be resolved: it would retry for half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not has_network(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def has_network(url: str) -> bool:
    """True if the name of the server can be resolved, or a proxy is there to resolve it."""
    if urllib.request.getproxies() or os.environ.get("ALL_PROXY"):
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, 443)
    except OSError:
        return False
    return True
