"""An import that may be repeated: a key makes each order one event, however often the file is read.

    $ python examples/import_orders.py
    first import: 3 new orders
    second import: 1 new order
    shipped: A1 A2 A3 A4
    the report of the day is ours: True
    and not twice: False
"""

from __future__ import annotations

import csv
import io
import tempfile
from typing import Any

import eventq

MONDAY = "order,item\nA1,tea\nA2,cake\nA3,jam\n"
TUESDAY = MONDAY + "A4,milk\n"  # the shop always exports everything
DAY = 86_400


def import_orders(orders: eventq.Queue[Any], text: str) -> int:
    """Put every order that is not there yet; a crash in the middle is repaired by running it again."""
    new = 0
    for row in csv.DictReader(io.StringIO(text)):
        try:
            orders.put(row, key=row["order"], unique=30 * DAY, if_exists="raise")
            new += 1
        except eventq.DuplicateKey:
            continue
    return new


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, eventq.App(folder) as app:
        orders = app.queue("orders")
        print(f"first import: {import_orders(orders, MONDAY)} new orders")
        print(f"second import: {import_orders(orders, TUESDAY)} new order")

        shipped = []
        for claim in orders.claims(timeout=0):
            with claim as event:
                shipped.append(event.payload["order"])
        print("shipped:", *shipped)

        # A named claim belongs to the first that takes it, of all processes, until it is released.
        print("the report of the day is ours:", app.claim_name("report-2026-11-21", {"orders": len(shipped)}))
        print("and not twice:", app.claim_name("report-2026-11-21"))


if __name__ == "__main__":
    main()
