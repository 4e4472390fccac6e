"""Says whether a page of ours asks for a websocket: browsers send cookies for others, too."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from django.conf import settings


def is_ours(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether the page that asks is of the host that is asked, or a trusted one."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    own = urlsplit(origin).netloc == headers.get(b"host", b"").decode("latin-1")
    return own or origin in settings.CSRF_TRUSTED_ORIGINS
