"""The roof: every app's paths; where two doors share one, the one that waits is first."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

import agentpool.console.urls
import agentpool.gateway.urls
import agentpool.registry.urls
import balancing.urls
import scaling.urls
from agentpool.live import status
from agentpool.registry import exposition

admin.autodiscover()

api = [
    *agentpool.gateway.urls.urlpatterns,
    *balancing.urls.leases,
    *scaling.urls.urlpatterns,
    *agentpool.registry.urls.urlpatterns,
    *balancing.urls.urlpatterns,
]

urlpatterns = [
    path("healthz", status.healthz),
    path("readyz", status.readyz),
    path("metrics", exposition.metrics),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("api/agent-pool", include(api)),
    path("admin/", admin.site.urls),
    *agentpool.console.urls.urlpatterns,
]

handler404 = "agentpool.console.views.not_found"
