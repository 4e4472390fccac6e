"""Paths of the pages for people, of what they may do, and of their websocket."""

from django.contrib.auth import views as auth
from django.urls import path, re_path

from agentpool.console import doing, views
from agentpool.console.pages import PAGES
from agentpool.console.socket import ConsoleSocket

urlpatterns = [
    *(path(page.path, views.page_view(page), name=page.name) for page in PAGES.values()),
    path("do", doing.choose, name="choose"),
    path("do/<slug:name>", doing.act, name="act"),
    path("login", auth.LoginView.as_view(), name="login"),
    path("logout", auth.LogoutView.as_view(), name="logout"),
]

websocket_urlpatterns = [re_path(r"^ws/console/$", ConsoleSocket.as_asgi())]
