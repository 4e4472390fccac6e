"""The WSGI application: Django without anything that waits, for servers with threads."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentpool.settings")

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
