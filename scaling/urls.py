"""Paths of scaling's doors below /api/agent-pool."""

from django.urls import path

from scaling import api, optimizer_api

urlpatterns = [
    path("/scaling/execute", api.Execute.as_view()),
    path("/scaling/history", api.History.as_view()),
    path("/scaling/decisions", api.Decisions.as_view()),
    path("/scaling/recommendation", api.Recommendation.as_view()),
    path("/scaling/policy", api.Policies.as_view()),
    path("/scaling/start", api.Start.as_view()),
    path("/scaling/stop", api.Stop.as_view()),
    path("/scaling/events", api.Announcements.as_view()),
    path("/optimize", optimizer_api.Optimize.as_view()),
    path("/optimize/history", optimizer_api.OptimizeHistory.as_view()),
    path("/optimize/policy", optimizer_api.OptimizePolicies.as_view()),
    path("/optimize/<uuid:optimization_id>/apply", optimizer_api.OptimizeApply.as_view()),
    path("/optimize/<uuid:optimization_id>/dismiss", optimizer_api.OptimizeDismiss.as_view()),
]
