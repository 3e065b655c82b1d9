"""One page: taking an order."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from .tasks import charge_card


def place_order(request: HttpRequest, order: int) -> HttpResponse:
    """Take an order."""
    del request
    charge_card.delay(order)
    return HttpResponse(status=202)


urlpatterns = [path("orders/<int:order>", place_order)]
