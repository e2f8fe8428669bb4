"""Deliveries that fail are tried again, later and later; what cannot work is set aside with its reason.

    $ python examples/deliver_webhooks.py
    shop.example refused the connection, attempt 1
    bank.example has it, attempt 1
    gone.example answered 410, attempt 1
    shop.example has it, attempt 2
    dead letter: https://gone.example/hook (answered 410)
    gone.example has it, attempt 1

Attempts are counted in the store, not in the process: a worker that dies in between changes nothing of this.
"""

from __future__ import annotations

import tempfile
from urllib.parse import urlsplit

import msgspec

import eventq


class Delivery(msgspec.Struct):
    url: str
    order: int


class PermanentError(Exception):
    """Trying again will not help."""


class Internet:
    """Stands for the servers: one is down for the first request, one wants nothing until it is repaired."""

    def __init__(self) -> None:
        self.down = {"shop.example"}
        self.gone = {"gone.example"}

    def post(self, host: str) -> None:
        if host in self.down:
            self.down.remove(host)
            raise ConnectionError("refused the connection")
        if host in self.gone:
            raise PermanentError("answered 410")


def deliver_all(deliveries: eventq.Queue[Delivery], internet: Internet) -> None:
    for claim in deliveries.claims(timeout=1):
        with claim as event:  # whatever else is raised in here counts as a failed attempt, and is retried
            host = urlsplit(event.payload.url).netloc
            try:
                internet.post(host)
                print(f"{host} has it, attempt {event.attempt}")
            except ConnectionError as error:
                print(f"{host} {error}, attempt {event.attempt}")
                claim.retry(delay=0.2, error=error)  # without a delay: 1 s, then twice as long each time
            except PermanentError as error:
                print(f"{host} {error}, attempt {event.attempt}")
                claim.reject(error)


def main() -> None:
    internet = Internet()
    with tempfile.TemporaryDirectory() as folder, eventq.App(folder) as app:
        deliveries = app.queue("webhooks", type=Delivery)
        for host in ("shop", "bank", "gone"):
            deliveries.put(Delivery(f"https://{host}.example/hook", order=7))
        deliver_all(deliveries, internet)

        internet.gone.clear()  # somebody repairs the server, looks at the dead letters and runs them again
        for record in deliveries.scan("dead").records:
            reason = record.failure.message if record.failure else "unknown"
            print(f"dead letter: {deliveries.payload_of(record).url} ({reason})")
            deliveries.retry(record.id)
        deliver_all(deliveries, internet)


if __name__ == "__main__":
    main()
