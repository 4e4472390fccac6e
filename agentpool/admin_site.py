"""
The admin site: its index and sidebar group pages by the app that acts.

All tables live in the app registry, so Django would show one long group. A page says its section
(`agentpool.registry.admin.frame.Page`) and the site regroups; proxy models in the acting apps would
do the same at the price of a second content type, second permissions and a second address for
every table. Addresses stay /admin/registry/TABLE/.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from csp.constants import SELF, UNSAFE_EVAL
from csp.decorators import csp_update
from django.core.exceptions import BadRequest
from django.db import DataError
from django.http import Http404, HttpRequest
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from unfold.sites import UnfoldAdminSite

View = Callable[..., Any]

# What Django and Postgres say of a value in a lookup that they were not made for.
_UNANSWERABLE = (DataError, IndexError, OverflowError, ValueError)

# The theme's script builds functions from the attributes of its pages.
_with_theme = csp_update({"script-src": [SELF, UNSAFE_EVAL]})

# Sections in the order of the sidebar, with their titles; other apps' pages follow.
SECTIONS = {
    "balancing": "Work and who does it",
    "scaling": "How many agents",
    "registry": "Pools and facts",
    "people": "People",
    "jobs": "Background jobs",
}


class PoolAdminSite(UnfoldAdminSite):
    """unfold's site with agentpool's sections."""

    index_title = "Dashboard"

    def admin_view(self, view: View, cacheable: bool = False) -> View:
        """Return a view that refuses an address which nothing in the database can answer."""
        inner = _with_theme(super().admin_view(view, cacheable))

        @wraps(inner)
        def door(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if "\x00" in request.path or any("\x00" in text for text in request.GET.values()):
                raise BadRequest("The address has a NUL in it.")
            request.section = self._section_of(request)  # type: ignore[attr-defined]
            try:
                return inner(request, *args, **kwargs)
            except _UNANSWERABLE as error:
                # A lookup may be written by hand: years beyond all, half a regular expression.
                if request.method != "GET" or not any("__" in name for name in request.GET):
                    raise
                raise BadRequest(f"The address cannot be looked up: {error}") from error

        return door

    @method_decorator(_with_theme)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Return the page to sign in."""
        return super().login(request, extra_context)

    def _section_of(self, request: HttpRequest) -> dict[str, str] | None:
        """Return title and address of the section that a page of a table belongs to."""
        name = request.resolver_match.url_name if request.resolver_match else None
        for model, page in self._registry.items():
            opts = model._meta
            if str(name).startswith(f"{opts.app_label}_{opts.model_name}_"):
                section = getattr(page, "section", opts.app_label)
                if section in SECTIONS:
                    url = reverse(f"{self.name}:section_{section}")
                    return {"title": SECTIONS[section], "url": url}
        return None

    def get_app_list(
        self, request: HttpRequest, app_label: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the pages that this person may see, by section; app_label: only that one."""
        found: dict[str, list[dict[str, Any]]] = {}
        for app in super().get_app_list(request):
            for page in app["models"]:
                shown = self._registry[page["model"]]
                section = getattr(shown, "section", app["app_label"])
                found.setdefault(section, []).append({**page, **_about(shown)})
        order = [*SECTIONS, *(name for name in found if name not in SECTIONS)]
        groups = [self._group(name, found[name]) for name in order if name in found]
        return [group for group in groups if app_label in (None, group["app_label"])]

    def _group(self, section: str, pages: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "name": SECTIONS.get(section, section.capitalize()),
            "app_label": section,
            "app_url": reverse(f"{self.name}:section_{section}") if section in SECTIONS else "",
            "has_module_perms": True,
            "models": sorted(pages, key=_place),
        }

    def extra_urls(self) -> list[URLPattern]:
        """Return the pages of the sections; Django knows only those of its apps."""
        view = self.admin_view(self.app_index)
        return [
            path(f"{name}/", view, {"app_label": name}, name=f"section_{name}")
            for name in ("balancing", "scaling", "registry")
        ] + [
            path(
                f"{name}/", self.admin_view(self.section), {"section": name}, name=f"section_{name}"
            )
            for name in ("people", "jobs")
        ]

    def section(self, request: HttpRequest, section: str) -> Any:
        """Show the pages of a section that is no app of ours."""
        groups = self.get_app_list(request, section)
        if not groups:
            raise Http404("There is nothing here that you may see.")
        context = {
            **self.each_context(request),
            "title": SECTIONS[section],
            "app_list": groups,
            "app_label": section,
        }
        return TemplateResponse(request, "admin/app_index.html", context)


def _about(page: Any) -> dict[str, Any]:
    return {
        "icon": getattr(page, "icon", "table"),
        "is_technical": getattr(page, "is_technical", False),
        "rank": getattr(page, "rank", 9),
    }


def _place(page: dict[str, Any]) -> tuple[bool, int, str]:
    return page["is_technical"], page["rank"], str(page["name"])


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar: dashboard and console, then each section's everyday pages."""
    from django.contrib import admin

    first = [
        {"title": "Dashboard", "icon": "dashboard", "link": reverse("admin:index")},
        # Its address is the beginning of every other: it would always look like the open page.
        {"title": "Live console", "icon": "sensors", "link": reverse("overview"), "active": _never},
    ]
    sections = [
        {"title": group["name"], "separator": True, "items": _items(group)}
        for group in admin.site.get_app_list(request)
    ]
    return [{"title": "", "items": first}, *(each for each in sections if each["items"])]


def _never(request: HttpRequest) -> bool:
    return False


def _items(group: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"title": page["name"], "icon": page["icon"], "link": page["admin_url"]}
        for page in group["models"]
        if not page["is_technical"] and page["admin_url"]
    ]
