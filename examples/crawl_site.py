"""A crawler: every page that is found is fetched once, politely, and again only if the server said "later".

    $ python examples/crawl_site.py
    21 pages fetched, found by following 41 links
    each was asked for once, and /7, which answered 503, once more: True
    politely, 10 in half a second, so that 22 took at least 1 s: True

The key of a call is its URL: enqueueing it once more gives the handle of the first call. On a store that stays, a
crawler that was killed goes on where it was. The site is a server in this program; some of its pages are slow.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urljoin, urlsplit

import eventq

if __name__ == "__main__":  # a store for this run alone
    room = tempfile.TemporaryDirectory()
    os.environ.setdefault("EVENTQ_URL", room.name)

app = eventq.App()
PAGES, SLOW, BUSY = 21, {3, 8, 13}, 7
STARTS, WINDOW, DAY = 10, 0.5, 86_400


@app.task(rates={"site": (STARTS, WINDOW)}, retry_for=ConnectionError, retry_delay=0.1, timeout=10)
async def fetch(url: str) -> list[str]:
    """The ids of the calls that fetch the pages it links to."""
    status, text = await get(url)
    if status == 503:
        raise ConnectionError(f"{url} answered {status}")
    return [await enqueued(urljoin(url, link)) for link in re.findall(r'href="([^"]+)"', text)]


async def enqueued(url: str) -> str:
    """The id of the one call that fetches this page. Its key is held for a day, not only until the call is done."""
    return (await fetch.using(key=url, unique=DAY).aio.enqueue(url)).id


async def get(url: str) -> tuple[int, str]:
    """As much of HTTP as this server needs."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(f"GET {where.path} HTTP/1.0\r\nHost: {where.netloc}\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    return int(head.split()[1]), body.decode()


class Site(BaseHTTPRequestHandler):
    """Page n links to 2n+1, 2n+2 and home."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        number = int(self.path[1:])
        if number in SLOW:
            time.sleep(0.2)
        busy = number == BUSY and self.asked.count(self.path) == 1
        self.send_response(503 if busy else 200)
        self.end_headers()
        linked = [page for page in (2 * number + 1, 2 * number + 2, 0) if page < PAGES]
        self.wfile.write("".join(f'<a href="/{page}">{page}</a>' for page in linked).encode())

    def log_message(self, *_: object) -> None:
        """Not on stderr: what was asked for is in `asked`."""


async def crawl(home: str) -> int:
    """Wait for a page, then for those that it links to; the number of links that were followed."""
    waiting, seen, links = [await enqueued(home)], set[str](), 0
    while waiting:
        event_id = waiting.pop()
        if event_id not in seen:
            seen.add(event_id)
            found = await app.handle(event_id, list[str]).aio.result(timeout=30)
            links += len(found)
            waiting += found
    return links


async def main() -> None:
    began = time.monotonic()
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        working = asyncio.create_task(app.worker().aio.run())
        links = await crawl(f"http://127.0.0.1:{server.server_port}/0")
        took = time.monotonic() - began
        working.cancel()  # it stops gracefully
        await asyncio.gather(working, return_exceptions=True)
        server.shutdown()

    asked, once = Counter(Site.asked), Counter(f"/{page}" for page in range(PAGES))
    least = (asked.total() - 1) // STARTS * WINDOW
    print(f"{len(asked)} pages fetched, found by following {links} links")
    print(f"each was asked for once, and /{BUSY}, which answered 503, once more:", asked - once == {f"/{BUSY}": 1})
    print(f"politely, {STARTS} in half a second, so that {asked.total()} took at least {least:g} s: {took >= least}")


if __name__ == "__main__":
    with room, app:
        asyncio.run(main())
