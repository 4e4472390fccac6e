"""Draws a page's board: the picture of the database as fragments of HTML."""

from django.template.loader import render_to_string

from agentpool.console.actions import ACTIONS
from agentpool.console.fragments import Drawing
from agentpool.console.page import Page, Params, Picture
from agentpool.console.tags import DRAWING
from agentpool.registry import queries


def draw(page: Page, params: Params, *, may_act: bool) -> tuple[str, Drawing, Picture]:
    """
    Return the board's HTML, its fragments, and the picture behind it; raises NotFound.

    may_act: whether it shows what only operators may do.
    """
    with queries.snapshot():  # all of a page is of one moment
        picture = page.picture(params)
    drawing = Drawing()
    context = {
        **picture,
        DRAWING: drawing,
        "page": page,
        "params": params,
        "may_act": may_act,
        "actions": ACTIONS,
    }
    return render_to_string(page.template, context), drawing, picture
