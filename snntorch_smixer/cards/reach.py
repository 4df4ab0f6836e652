"""Is the Hub there? Answered within two seconds, where its own client would retry for half a minute."""

from __future__ import annotations

import os
import socket
import sys
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_SECONDS = 1.5


def is_reachable(endpoint: str) -> bool:
    """True when a connection to the host of ``endpoint``, or to the proxy in front of it, opens within 1.5 seconds.

    ``HF_HUB_ETAG_TIMEOUT``, where it is set, is the limit in seconds instead.
    """
    limit = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or _SECONDS)
    host, port = _address(endpoint)
    opened = threading.Event()

    def try_to_open() -> None:
        try:
            socket.create_connection((host, port), timeout=limit).close()
        except OSError:
            return
        opened.set()

    # In a thread, because looking a name up has no time limit of its own.
    attempt = threading.Thread(target=try_to_open, daemon=True)
    attempt.start()
    attempt.join(limit)
    return opened.is_set()


def transport_errors() -> tuple[type[Exception], ...]:
    """Errors of a connection that breaks: the Hub's client raises those of the HTTP library that it was built on."""
    modules = [sys.modules[name] for name in ("httpx", "httpx2", "requests") if name in sys.modules]
    found = [getattr(m, name) for m in modules for name in ("HTTPError", "RequestException") if hasattr(m, name)]
    return (OSError, *found)


def _address(endpoint: str) -> tuple[str, int]:
    url = urlsplit(endpoint)
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
