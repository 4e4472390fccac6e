"""
Acts: how a person changes rows of a state machine from the admin, for one row or for many.

Each act shows first what will happen, in numbers, and takes a note; then it makes one service call
a row. A row that is no longer what the person saw is left alone, and told by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextInputWidget

from agentpool.registry.admin.frame import Page, actor_of
from agentpool.registry.errors import Refusal

F = TypeVar("F", bound=Callable[..., Any])
# More rows than this in one act would keep a browser waiting for minutes.
AT_MOST = 5000
NAMED = 20


class Note(forms.Form):
    """Why somebody acts."""

    note = forms.CharField(
        max_length=400,
        required=False,
        strip=True,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept in the history of each row, and with its event.",
    )


class NoteUntil(Note):
    """Why, and until when it holds."""

    until = forms.DateTimeField(
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local"}),
        help_text="UTC; then it ends by itself. Empty: until somebody ends it.",
    )

    def clean_until(self) -> Any:
        """Return the time; one that is over is refused."""
        until = self.cleaned_data["until"]
        if until is not None and until <= timezone.now():
            raise forms.ValidationError("That time is over.")
        return until


@dataclass(frozen=True)
class Act:
    """
    Something a person may do to rows.

    foretell: sentences on what will happen to these rows, with numbers. apply: one service call for
    a row, given the form's values and the actor; returns a secret to be shown once, or None.
    """

    name: str
    title: str
    foretell: Callable[[Sequence[Any]], Sequence[str]]
    apply: Callable[[Any, Mapping[str, Any], str], str | None]
    form: type[Note] = Note
    icon: str = "bolt"
    is_harsh: bool = False
    once_about: str = ""


@dataclass
class Report:
    """What became of the rows: done, refused with reasons, and secrets to be shown once."""

    done: list[Any] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    secrets: list[tuple[str, str]] = field(default_factory=list)


class Acting(Page):
    """A table of rows that change by acts; each act is an action of the list and of a row."""

    acts: ClassVar[Sequence[Act]] = ()
    # How many acts stand beside each other on a row's page; the rest are in a menu.
    acts_shown: ClassVar[int] = 3
    row_links: ClassVar[Sequence[str]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """This will make the actions that Django and unfold look for."""
        super().__init_subclass__(**options)
        for act in cls.acts:
            setattr(cls, act.name, _on_one(act))
        cls.actions = [_on_many(act) for act in cls.acts]
        names = [act.name for act in cls.acts]
        menu = {"title": "More", "icon": "more_horiz", "items": names[cls.acts_shown :]}
        cls.actions_detail = [
            *cls.row_links,
            *names[: cls.acts_shown],
            *([menu] if menu["items"] else []),
        ]

    def seen(self, row: Any) -> str:
        """Return what of a row a person decides by; when it differs, the act is not done."""
        return str(row.status)

    def begin(
        self, request: HttpRequest, act: Act, rows: Sequence[Any], *, back: str, is_many: bool
    ) -> HttpResponse:
        """Ask, or do what was confirmed; `back`: where the person came from."""
        if "apply" not in request.POST:
            return self._ask(request, act, rows, act.form(), back=back, is_many=is_many)
        form = act.form(request.POST)
        if not form.is_valid():
            return self._ask(request, act, rows, form, back=back, is_many=is_many)
        report = self._do(request, act, _named_rows(request, self.model), form.cleaned_data)
        if report.secrets:
            return self._show_secrets(request, act, report, back)
        _tell(request, act, report, self.opts)
        return HttpResponseRedirect(back)

    def _ask(
        self,
        request: HttpRequest,
        act: Act,
        rows: Sequence[Any],
        form: Note,
        *,
        back: str,
        is_many: bool,
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "act": act,
            "title": f"{act.title}: {_counted(rows, self.opts)}",
            "form": form,
            "sentences": act.foretell(rows),
            "rows": rows[:NAMED],
            "more": max(0, len(rows) - NAMED),
            "first": rows[0] if rows else None,
            "seen": "\n".join(f"{row.pk}={self.seen(row)}" for row in rows),
            "back": back,
            "is_many": is_many,
        }
        return TemplateResponse(request, "admin/act.html", context)

    def _do(
        self, request: HttpRequest, act: Act, seen: Mapping[str, str], said: Mapping[str, Any]
    ) -> Report:
        rows = {str(row.pk): row for row in self.get_queryset(request).filter(pk__in=seen)}
        report, actor = Report(), actor_of(request)
        for pk, was in seen.items():
            row = rows.get(pk)
            if row is None:
                report.refused.append((pk, "It is no longer there."))
                continue
            if (now := self.seen(row)) != was:
                changed = f"Somebody changed it meanwhile: it was {was}, it is {now}. Left alone."
                report.refused.append((str(row), changed))
                continue
            try:
                # What is done, its event and the line about it here are all there, or none is.
                with transaction.atomic():
                    secret = act.apply(row, said, actor)
                    written = f"{act.title} · {said['note']}".removesuffix(" · ")
                    self.log_change(request, row, written)
            except Refusal as refusal:
                report.refused.append((str(row), refusal.detail))
                continue
            report.done.append(row)
            if secret is not None:
                report.secrets.append((str(row), secret))
        return report

    def _show_secrets(
        self, request: HttpRequest, act: Act, report: Report, back: str
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": act.title,
            "act": act,
            "report": report,
            "back": back,
        }
        response = TemplateResponse(request, "admin/secrets.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response


def _on_one(act: Act) -> Any:
    """Return unfold's action on a row's page."""

    def one(page: Acting, request: HttpRequest, object_id: str) -> HttpResponse:
        row = page.get_object(request, object_id)
        if row is None:
            raise Http404(f"There is no {page.opts.verbose_name} {object_id}.")
        if not page.has_view_permission(request, row):
            raise PermissionDenied
        names = page.opts.app_label, page.opts.model_name
        back = reverse("admin:{}_{}_change".format(*names), args=[object_id])
        return page.begin(request, act, [row], back=back, is_many=False)

    one.__name__ = act.name
    return action(
        description=act.title,
        permissions=["operate"],
        url_path=act.name.replace("_", "-"),
        icon=act.icon,
        variant=ActionVariant.DANGER if act.is_harsh else ActionVariant.DEFAULT,
    )(one)


def _on_many(act: Act) -> Any:
    """Return Django's action on a list's ticked rows."""

    def many(page: Acting, request: HttpRequest, chosen: Any) -> HttpResponse:
        back = request.get_full_path()
        rows: Sequence[Any] = ()
        if "seen" in request.POST:
            rows = list(page.get_queryset(request).filter(pk__in=_named_rows(request, page.model)))
        else:
            rows = list(chosen[: AT_MOST + 1])
        if len(rows) > AT_MOST:
            messages.error(request, f"More than {AT_MOST:,} rows at once; narrow the list first.")
            return HttpResponseRedirect(back)
        return page.begin(request, act, rows, back=back, is_many=True)

    many.__name__ = act.name
    return action(description=act.title, permissions=["operate"])(many)


def _named_rows(request: HttpRequest, model: Any) -> dict[str, str]:
    """Return the rows that the confirmation named, each with what was seen of it."""
    lines = str(request.POST.get("seen", "")).replace("\r", "").split("\n")
    named = dict(line.partition("=")[::2] for line in lines[:AT_MOST] if line)
    return {key: was for key, was in named.items() if _is_key(model, key)}


def _is_key(model: Any, text: str) -> bool:
    try:
        model._meta.pk.to_python(text)
    except ValidationError:
        return False
    return True


def _tell(request: HttpRequest, act: Act, report: Report, opts: Any) -> None:
    if report.done:
        messages.success(request, f"{act.title}: done for {_counted(report.done, opts)}.")
    for name, why in report.refused[:NAMED]:
        messages.error(request, f"{name}: {why}")
    if len(report.refused) > NAMED:
        messages.error(request, f"… and {len(report.refused) - NAMED} more were not changed.")


def _counted(rows: Sequence[Any], opts: Any) -> str:
    if len(rows) == 1:
        return str(rows[0])
    return f"{len(rows):,} {opts.verbose_name_plural}"


def how_many(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 lease`, `3 leases`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def button(title: str, *, icon: str) -> Callable[[F], F]:
    """Return the decorator of an operator's action on the list as a whole; unfold's, with types."""

    def mark(method: F) -> F:
        path = method.__name__.replace("_", "-")
        wrap = action(description=title, permissions=["operate"], url_path=path, icon=icon)
        marked: F = wrap(method)
        return marked

    return mark


def links_to(title: str, icon: str, address: Callable[[str], str]) -> Any:
    """Return an action of a row's page that only leads somewhere; address: of the row's key."""

    def go(page: Any, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(address(object_id))

    return action(description=title, icon=icon, url_path=title.lower())(go)
