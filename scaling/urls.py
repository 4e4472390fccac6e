"""Paths of scaling's doors below /api/agent-pool."""

from django.urls import path

from scaling import api

urlpatterns = [
    path("/scaling/execute", api.Execute.as_view()),
    path("/scaling/history", api.History.as_view()),
]
