"""Paths of the pages for people and of their websocket."""

from django.contrib.auth import views as auth
from django.urls import path, re_path

from agentpool.console import views
from agentpool.console.socket import ConsoleSocket

urlpatterns = [
    path("", views.pool, name="pool"),
    path("leases/<uuid:lease_id>", views.lease, name="lease"),
    path("requests/<uuid:request_id>/", views.request, name="request"),
    path("login", auth.LoginView.as_view(), name="login"),
    path("logout", auth.LogoutView.as_view(), name="logout"),
]

websocket_urlpatterns = [re_path(r"^ws/console/$", ConsoleSocket.as_asgi())]
