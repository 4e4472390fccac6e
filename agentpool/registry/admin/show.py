"""How the admin shows values: badges, ages, bars, amounts and links, all readable as text."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode

from django.contrib.admin import display as plain_display
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from unfold.decorators import display

F = TypeVar("F", bound=Callable[..., Any])

# A colour for each word of the state machines; the word itself stands in the badge.
COLOURS = {
    **dict.fromkeys(
        ("idle", "good", "active", "granted", "finished", "released", "success", "started"),
        "success",
    ),
    **dict.fromkeys(("busy", "offered", "standby", "waiting", "intended", "probation"), "info"),
    **dict.fromkeys(
        ("starting", "draining", "parked", "maintenance", "stopping", "timed_out", "timeout"),
        "warning",
    ),
    **dict.fromkeys(
        (
            "unreachable",
            "lost",
            "quarantined",
            "failed",
            "failure",
            "refused",
            "expired",
            "revoked",
            "used up",
        ),
        "danger",
    ),
}
_BAR = (
    '<span class="flex flex-col gap-1 grow" style="min-width: 5.5rem" title="{}">'
    '<span class="text-xs whitespace-nowrap">{}</span>'
    '<span class="bg-base-200 dark:bg-base-700 block h-1.5 overflow-hidden rounded-default">'
    '<span class="block h-1.5 rounded-default {}" style="width: {}%"></span></span></span>'
)
_LINK = '<a class="text-primary-600 dark:text-primary-500 whitespace-nowrap" href="{}">{}</a>'


def column(
    about: str, *, ordering: Any = None, label: dict[str, str] | None = None, empty: str = "–"
) -> Callable[[F], F]:
    """
    Return the decorator of a method that is a column; unfold's, with types.

    label: word > colour of the badge that it is shown in, such as COLOURS.
    """

    def mark(method: F) -> F:
        if label is None:
            plain_display(description=about, ordering=ordering, empty_value=empty)(method)
        else:
            display(description=about, ordering=ordering, label=label)(method)
        return method

    return mark


def ago(about: str, field: str, *, ordering: str = "", empty: str = "–") -> Callable[..., Any]:
    """Return a column: how long ago a field's time was. ordering: a cheaper field to sort by."""

    @column(about, ordering=ordering or field, empty=empty)
    def shown(page: Any, row: Any) -> Any:
        return age(getattr(row, field))

    return shown


def at(about: str, field: str) -> Callable[..., Any]:
    """Return a column: a field's time."""

    @column(about, ordering=field)
    def shown(page: Any, row: Any) -> Any:
        return moment(getattr(row, field))

    return shown


def pool_name() -> Callable[..., Any]:
    """Return a column: the name of a row's pool, without a query."""

    @column("pool", ordering="pool")
    def shown(page: Any, row: Any) -> Any:
        return row.pool_id

    return shown


def on_console(act: str, subject: str) -> Callable[..., Any]:
    """Return a column that leads to the console's form for the row's pool."""

    @column("edit")
    def shown(page: Any, row: Any) -> Any:
        form = f"{reverse('act', args=[act])}?{urlencode({subject: row.pool_id})}"
        return link(form, "on the console")

    return shown


def age(at: datetime | None, *, now: datetime | None = None) -> SafeString | None:
    """Return how long ago a time was, the time itself as its title; None: never."""
    if at is None:
        return None
    seconds = ((now or timezone.now()) - at).total_seconds()
    text = f"in {duration(-seconds)}" if seconds < -0.5 else f"{duration(max(0.0, seconds))} ago"
    return moment(at, text)


def moment(at: datetime | None, text: str = "") -> SafeString | None:
    """Return a time as an element that the page's script shows in the reader's zone."""
    if at is None:
        return None
    shown = text or f"{at:%Y-%m-%d %H:%M:%S}"
    return format_html(
        '<time class="whitespace-nowrap" datetime="{}" title="{} UTC"{}>{}</time>',
        at.isoformat(),
        f"{at:%Y-%m-%d %H:%M:%S}",
        mark_safe("" if text else " data-local"),  # noqa: S308  (a constant)
        shown,
    )


def duration(seconds: float | None) -> str:
    """Return seconds in the largest two units that make sense."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} days"


def megabytes(amount: float | None) -> str:
    """Return MB in MB, GB or TB."""
    if amount is None:
        return "–"
    if amount < 1024:
        return f"{amount:g} MB"
    return f"{amount / 1024:.3g} GB" if amount < 1024**2 else f"{amount / 1024**2:.3g} TB"


def of_megabytes(used: float, most: float) -> str:
    """Return how much of an amount of MB is used, as words."""
    return f"{megabytes(round(used))} of {megabytes(most)}"


def count(amount: float | None) -> str:
    """Return a large number in thousands or millions."""
    if amount is None:
        return "–"
    for least, size, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if amount >= least:
            return f"{amount / size:.3g} {unit}"
    return f"{amount:,.0f}" if amount == int(amount) else f"{amount:g}"


def bar(part: float, whole: float | None, text: str) -> SafeString:
    """Return a share as a bar with its words; over 90 % it changes colour."""
    share = min(1.0, max(0.0, float(part) / float(whole))) if whole else 0.0
    colour = "bg-red-500" if share > 0.9 else "bg-primary-600 dark:bg-primary-500"
    return format_html(_BAR, f"{share:.0%}", text, colour, f"{100 * share:.0f}")


def link(address: str, text: object) -> SafeString:
    """Return a link."""
    return format_html(_LINK, address, text)


def to_row(model: str, pk: Any, text: object) -> SafeString | None:
    """Return a link to a row's page; None without a row."""
    return None if pk is None else link(reverse(f"admin:registry_{model}_change", args=[pk]), text)


def to_list(model: str, text: object, **only: Any) -> SafeString:
    """Return a link to a list of rows, narrowed by column."""
    return link(list_of(model, **only), text)


def list_of(model: str, **only: Any) -> str:
    """Return the address of a list of rows, narrowed by column."""
    return reverse(f"admin:registry_{model}_changelist", query=only or None)


def joined(*parts: object) -> SafeString:
    """Return the parts that there are, with dots between them."""
    there = [part for part in parts if part]
    return format_html(" · ".join(["{}"] * len(there)), *there) if there else SafeString("–")


def words(values: list[str], *, most: int = 4) -> str:
    """Return a list of words, the first few of it."""
    more = f" +{len(values) - most}" if len(values) > most else ""
    return ", ".join(values[:most]) + more if values else "–"


def since(at: datetime | None, until: datetime | None) -> str:
    """Return how long something took, or has taken so far."""
    if at is None:
        return "–"
    lasted: timedelta = (until or timezone.now()) - at
    return duration(max(0.0, lasted.total_seconds()))


def as_json(value: Any) -> SafeString | None:
    """Return a JSON value, indented; None without one."""
    if value is None:
        return None
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return format_html('<pre class="overflow-x-auto text-xs">{}</pre>', text)


def one_line(text: object) -> SafeString | None:
    """Return a text that a narrow column must not break; None when it is empty."""
    return format_html('<span class="whitespace-nowrap">{}</span>', text) if text else None
