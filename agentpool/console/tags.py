"""Template tags of the console: fragments, and how times, amounts and shares are written."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django import template
from django.template.base import FilterExpression, NodeList, Parser, Token
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from agentpool.console.fragments import Drawing

register = template.Library()

DRAWING = "drawing"


class FragmentNode(template.Node):
    """`{% fragment "id" %}<p id="id">…</p>{% endfragment %}`: it is pushed by itself."""

    def __init__(self, id: FilterExpression, nodelist: NodeList) -> None:
        self.id = id
        self.nodelist = nodelist

    def render(self, context: template.Context) -> SafeString:
        """Return the element, noted in the context's drawing."""
        drawing: Drawing = context[DRAWING]
        drawing.begin()
        html = self.nodelist.render(context).strip()
        return mark_safe(drawing.end(str(self.id.resolve(context)), html))  # noqa: S308  (rendered)


@register.tag
def fragment(parser: Parser, token: Token) -> FragmentNode:
    """Compile the tag `fragment`."""
    _, id = token.split_contents()
    nodelist = parser.parse(("endfragment",))
    parser.delete_first_token()
    return FragmentNode(parser.compile_filter(id), nodelist)


@register.filter
def get(table: Mapping[str, Any], name: str) -> Any:
    """Return what a table has under a name."""
    return table[name]


@register.simple_tag(takes_context=True)
def query(context: template.Context, **changed: Any) -> str:
    """Return the page's address with some parameters changed; the usual ones are left out."""
    page, params = context["page"], {**context["params"], **changed}
    kept = {
        name: value
        for name, value in params.items()
        if name != "id" and value not in (None, "") and value != page.params.get(name)
    }
    return "?" + urlencode(kept)


# -- times -----------------------------------------------------------------------------------------


@register.filter
def moment(at: datetime | None, show: str = "time") -> str:
    """
    Write a moment in UTC; the browser puts it into its reader's zone.

    show: time (with its day when that is not today), day, both.
    """
    if at is None:
        return ""
    text = _clock(at) if show == "time" else at.strftime(_FORMS[show])
    return format_html('<time datetime="{}" data-local="{}">{} UTC</time>', _iso(at), show, text)


_FORMS = {"day": "%Y-%m-%d", "both": "%Y-%m-%d %H:%M:%S"}


def _clock(at: datetime) -> str:
    """Write the time of day, and before it the day unless that is today: hours alone would lie."""
    is_today = at.date() == datetime.now(UTC).date()
    return at.strftime("%H:%M:%S" if is_today else _FORMS["both"])


@register.filter
def since(at: datetime | None) -> str:
    """Write how long ago a moment was; the browser lets it grow."""
    if at is None:
        return ""
    return format_html('<time datetime="{}" data-age>since {} UTC</time>', _iso(at), _clock(at))


@register.filter
def until(at: datetime | None) -> str:
    """Write how far off a moment is; the browser lets it shrink."""
    if at is None:
        return ""
    return format_html('<time datetime="{}" data-until>until {} UTC</time>', _iso(at), _clock(at))


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@register.filter
def seconds(value: float | None) -> str:
    """Write a length of time in the two largest units that it has."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f}".removesuffix(".0") + " s"
    s = round(value)
    for size, unit, smaller, small_unit in _UNITS:
        if s >= size:
            rest = s % size // smaller
            return f"{s // size} {unit} {rest} {small_unit}" if rest else f"{s // size} {unit}"
    return f"{s} s"


_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))


# -- amounts ---------------------------------------------------------------------------------------


@register.filter
def mb(value: float | None) -> str:
    """Write megabytes; from 1,024 on as gigabytes."""
    if value is None:
        return "–"
    if value < 1024:
        return f"{value:.0f} MB"
    return f"{value / 1024:.1f}".removesuffix(".0") + " GB"


@register.filter
def amount(value: float | None) -> str:
    """Write a large number with three digits and k, M or G."""
    if value is None:
        return "–"
    # Three digits first: what they round up to may have the next unit.
    number = float(f"{float(value):.3g}")
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.10g} {unit}"
    return f"{number:.10g}"


@register.filter
def plain(value: Any) -> str:
    """Write a number without zeros that say nothing; decimals of cores as people do."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)


@register.filter
def words(value: Any) -> str:
    """Write a name of the code as people read it."""
    return str(value).replace("_", " ")


@register.filter
def percent(share: float | None) -> str:
    """Return a share, 0-1, in per cent; a dash when it is not known."""
    return "–" if share is None else f"{100 * share:.0f} %"
