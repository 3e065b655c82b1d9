"""One page: taking an order."""

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from .models import Order
from .tasks import charge_card


def place_order(request: HttpRequest, number: int) -> HttpResponse:
    """Take an order, and have it paid once it is in the database."""
    del request
    with transaction.atomic():
        Order.objects.update_or_create(number=number)
        charge_card.delay_on_commit(number)
    return HttpResponse(status=202)


urlpatterns = [path("orders/<int:number>", place_order)]
