"""
Django's settings of one agentpool installation; everything adjustable comes from the environment.

Names that begin with AGENTPOOL_ are the product's own; docs/settings.md lists each with its unit.
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from csp.constants import NONE, SELF, UNSAFE_INLINE
from django.core.exceptions import ImproperlyConfigured

from agentpool import __version__
from agentpool.host import installation, lock

PACKAGE_DIR = Path(__file__).resolve().parent
BASE_DIR = PACKAGE_DIR.parent


def _beside(name: str) -> Path:
    """Return a top-level folder of the checkout, or the copy of it that the wheel carries."""
    in_checkout = BASE_DIR / name
    return in_checkout if in_checkout.is_dir() else PACKAGE_DIR / name


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        return float(text or default)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must be a number, not {text!r}.") from error


def _whole(name: str, default: int) -> int:
    number = _number(name, default)
    if not number.is_integer():
        raise ImproperlyConfigured(f"{name} must be a whole number, not {number:g}.")
    return int(number)


def _several(name: str, default: str = "") -> list[str]:
    parts = (os.environ.get(name) or default).split(",")
    return [part.strip() for part in parts if part.strip()]


def _secret_key() -> str:
    """Return the installation's signing key; made at first use, readable by its owner only."""
    file = INSTALLATION.home / "secret_key"
    if not _has_text(file):
        installation.make_home(INSTALLATION)
        with lock.hold(INSTALLATION.run_folder / "secret_key.lock", wait_s=10):
            # Not there, or empty: its maker was killed, or the disk was full.
            if not _has_text(file):
                installation.write_private(file, text=secrets.token_urlsafe(50))
    return file.read_text()


def _has_text(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _database(url: str | None) -> dict[str, Any]:
    """Return Django's settings for a postgresql:// URL; without one, any use of it will fail."""
    parts = urlsplit(url or "postgresql://no-database-yet.invalid/agentpool")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        # Prepared is what asks for it (`prepare=True`), nothing else; Django's default: never.
        "OPTIONS": {"prepare_threshold": 2**31} | dict(parse_qsl(parts.query)),
    }


INSTALLATION = installation.current()
DEBUG = os.environ.get("AGENTPOOL_DEBUG") == "1"
SECRET_KEY = os.environ.get("AGENTPOOL_SECRET_KEY") or _secret_key()
ALLOWED_HOSTS = _several("AGENTPOOL_ALLOWED_HOSTS", "*")
CSRF_TRUSTED_ORIGINS = _several("AGENTPOOL_ORIGINS")

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "agentpool.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "channels",
    "django_q",
    "agentpool.registry",
    "balancing",
    "scaling",
    "agentpool.apps.AgentpoolConfig",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "agentpool.static_files.StaticFiles",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "agentpool.urls"
ASGI_APPLICATION = "agentpool.asgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [_beside("templates")],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "libraries": {"console": "agentpool.console.tags"},
        },
    }
]

# The web process sets AGENTPOOL_DB_POOL: there threads come and go, so connections are pooled.
# The job cluster forks its workers and must never share a pool's sockets with them.
DB_POOL_SIZE = _whole("AGENTPOOL_DB_POOL", 0)
DATABASES = {"default": _database(installation.database_url())}
if DB_POOL_SIZE:
    DATABASES["default"]["OPTIONS"]["pool"] = {
        "min_size": 1,
        "max_size": DB_POOL_SIZE,
        "timeout": 10,
    }
else:
    DATABASES["default"]["CONN_MAX_AGE"] = 600
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"
# A page loads nothing from elsewhere, runs no script that is written into it, and stands in
# nobody's frame. Styles may be written into it: a bar is as long as its number. The admin adds what
# its theme needs (agentpool.admin_site).
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "style-src": [SELF, UNSAFE_INLINE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "object-src": [NONE],
    }
}
SESSION_COOKIE_NAME = "agentpool_session"
SESSION_COOKIE_SAMESITE = "Lax"

LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATICFILES_DIRS = [_beside("static")]
# Served from where they stand: nothing has to be collected before a start.
WHITENOISE_USE_FINDERS = True
WHITENOISE_MAX_AGE = 3600

DATA_UPLOAD_MAX_MEMORY_SIZE = 512 * 1024
# A form names each row that was ticked, the console's with its version: 5,000 rows of the admin.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 11_000

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "agentpool.registry.rest.BearerAuthentication",
        "agentpool.registry.rest.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["agentpool.registry.rest.Scoped"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "agentpool.registry.rest.OneForm",
    "DEFAULT_PARSER_CLASSES": ["agentpool.registry.rest.BoundedJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "agentpool.registry.schema.ProblemSchema",
    "EXCEPTION_HANDLER": "agentpool.registry.rest.problem",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "agentpool",
    "DESCRIPTION": "The control plane for fleets of AI coding agents.",
    "VERSION": __version__,
    "OAS_VERSION": "3.1.0",
    # The page's script comes from here: another host's would act with the reader's session.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": f"{STATIC_URL}favicon.svg",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "AgentStatusEnum": "agentpool.registry.states.AgentStatus",
    },
}

# `retry` must exceed `timeout`, or a slow task is started a second time while the first runs.
Q_CLUSTER = {
    "name": "agentpool",
    "orm": "default",
    "workers": _whole("AGENTPOOL_JOB_WORKERS", 2),
    "timeout": 25,
    "retry": 30,
    "max_attempts": 2,
    "poll": _number("AGENTPOOL_JOB_POLL_S", 0.2),
    "bulk": 10,
    "queue_limit": 20,
    "save_limit": 200,
    "recycle": 2000,
    "catch_up": False,
    "ack_failures": True,
    "label": "Jobs",
}

# Where agents on this machine reach the control plane; `up` sets it.
PUBLIC_URL = os.environ.get("AGENTPOOL_URL", "http://127.0.0.1:8600")

# How long things may take, seconds. docs/settings.md explains each; tests use short ones.
HEARTBEAT_S = _number("AGENTPOOL_HEARTBEAT_S", 10)
SUSPECT_S = _number("AGENTPOOL_SUSPECT_S", 30)
LOST_S = _number("AGENTPOOL_LOST_S", 90)
OFFER_S = _number("AGENTPOOL_OFFER_S", 15)
RUN_LEASE_S = _number("AGENTPOOL_RUN_LEASE_S", 120)
HARD_END_S = _number("AGENTPOOL_HARD_END_S", 14_400)
REAP_SLACK_S = _number("AGENTPOOL_REAP_SLACK_S", 5)
BACKOFF_S = _number("AGENTPOOL_BACKOFF_S", 5)
MAX_ATTEMPTS = _whole("AGENTPOOL_MAX_ATTEMPTS", 3)
# The gateway and the event stream: one connection's bounds.
FLUSH_S = _number("AGENTPOOL_FLUSH_S", 1)
MESSAGE_BYTES = _whole("AGENTPOOL_MESSAGE_BYTES", 524_288)
MESSAGES_PER_S = _number("AGENTPOOL_MESSAGES_PER_S", 2000)
SLOW_READER_S = _number("AGENTPOOL_SLOW_READER_S", 30)
LOG_CAP_BYTES = _whole("AGENTPOOL_LOG_CAP_BYTES", 1_000_000)
CANARY_EVERY_S = _number("AGENTPOOL_CANARY_EVERY_S", 5)
STALE_S = _number("AGENTPOOL_STALE_S", 15)

# How long rows are kept, days; the daily job prunes.
KEEP_EVENTS_DAYS = _number("AGENTPOOL_KEEP_EVENTS_DAYS", 7)
KEEP_FINISHED_DAYS = _number("AGENTPOOL_KEEP_FINISHED_DAYS", 90)
KEEP_OUTCOMES_DAYS = _number("AGENTPOOL_KEEP_OUTCOMES_DAYS", 90)
KEEP_LOGS_DAYS = _number("AGENTPOOL_KEEP_LOGS_DAYS", 14)
KEEP_SAMPLES_DAYS = _number("AGENTPOOL_KEEP_SAMPLES_DAYS", 2)
KEEP_SAMPLES_FIVE_MIN_DAYS = _number("AGENTPOOL_KEEP_SAMPLES_FIVE_MIN_DAYS", 14)
KEEP_SAMPLES_HOURLY_DAYS = _number("AGENTPOOL_KEEP_SAMPLES_HOURLY_DAYS", 120)
KEEP_SAMPLES_DAILY_DAYS = _number("AGENTPOOL_KEEP_SAMPLES_DAILY_DAYS", 1100)

# Who may read /metrics: "open" is everybody who reaches the port, "token" whoever has a token.
METRICS_AUTH = os.environ.get("AGENTPOOL_METRICS_AUTH", "open")
# Where traces go by OTLP over HTTP, as http://collector:4318/v1/traces; empty: nowhere.
OTEL_ENDPOINT = os.environ.get("AGENTPOOL_OTEL_ENDPOINT", "")

UNFOLD = {
    "SITE_TITLE": "agentpool",
    "SITE_HEADER": "agentpool",
    "SITE_SUBHEADER": "the control plane",
    "SITE_SYMBOL": "hub",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": f"{STATIC_URL}favicon.svg"}],
    "DASHBOARD_CALLBACK": "agentpool.registry.admin.dashboard.dashboard",
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": True,
        "navigation": "agentpool.admin_site.navigation",
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "filters": {
        # Asked each second while something is down; the supervisor says so once.
        "not_readyz": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: "/readyz" not in record.getMessage(),
        }
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "stream": sys.stderr,
            "filters": ["not_readyz"],
        }
    },
    "root": {"handlers": ["stderr"], "level": os.environ.get("AGENTPOOL_LOG_LEVEL", "INFO")},
    "loggers": {
        "daphne.http_protocol": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "django.channels.server": {"level": "WARNING"},
        "django-q": {"level": "WARNING"},
    },
}
