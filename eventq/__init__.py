"""eventq: the SQLite of queues. A durable, brokerless event and task queue in a directory.

    import eventq

    app = eventq.App()                          # $EVENTQ_URL, or the directory ./.eventq
    orders = app.queue("orders")
    orders.put({"order": 42}, delay=5)          # durable when it returns
    for claim in orders.claims():               # waits; one owner at a time
        with claim as event:                    # returns: completed; raises: retried, then dead
            ship(event.payload)

`App` is the way in; everything else is made by it. What can block has an awaitable twin of the same name
under `.aio`. Errors are `EventqError`s; `Retry` and `Reject` are instructions that a handler raises.
"""

# The layout, lowest layer first; each imports only what stands above it in this list.
#
#   model, errors, ids, clock, retry, config, codec, bridge   pure: records, rules, formats
#   storage/        base is the seam (read it first); memory, file ... are implementations of it
#   store           an opened storage with the codecs and the clock of one app
#   claim           the right to handle one event, and the ways to end it
#   handle          the waiter's side; inbox: a worker's own queues, for what is addressed to it
#   put, queue      events in and out
#   lock            locks and semaphores; disabled: tasks that are switched off; entries: records that change
#   notifications/  what users are told: record (in the store)
#   arguments       the arguments of a call as data; options: what may be said of a task
#   task            functions that run elsewhere; context: what a run knows of itself; run: from event to outcome
#   stream, capture what a run yields, and what it writes; middleware: hooks
#   process         child processes that run tasks, and child, their inside
#   worker/         claims events and runs their tasks: intake (queues), crew (threads), loop, children,
#                   control (pings, stops), switches (tasks that are off)
#   schedule/       calls of tasks at given times: times, definition, record (in the store), ticks (what is due)
#   workflow/       graphs of tasks: graph, flow (how one is written), state, inbox (in the store), engine, handle
#   job/            stages of calls with a record that stays: template, definition, record, report, keeper (its runs)
#   app             the way in
#   sources         configuration from the environment and pyproject.toml; supervisor: several worker processes
#   aio             the awaitable twin of each, imported when `.aio` is used

from __future__ import annotations

import logging

from eventq.app import App, NamedClaim
from eventq.claim import Claim, Reject, Retry
from eventq.codec import Codec, JSONCodec, MsgpackCodec
from eventq.config import AppConfig, QueueSettings
from eventq.context import Context
from eventq.disabled import DisabledTask
from eventq.errors import (
    ClaimLost,
    ConfigError,
    CorruptRecord,
    DuplicateKey,
    DuplicateName,
    EventqError,
    JobDisabled,
    JobRunning,
    MissingExtra,
    OutcomeUnknown,
    PayloadError,
    QueueFull,
    ResultMissing,
    ResultTimeout,
    RunFailed,
    StorageClosed,
    StorageError,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskTimeout,
    TemplateError,
    UnknownEvent,
    UnknownJob,
    UnknownSchedule,
    UnknownTask,
    UnknownWorker,
)
from eventq.handle import Handle
from eventq.job import Job, JobOptions, JobReport, Jobs, JobStatus, Stage, StageReport
from eventq.lock import Lock, Semaphore
from eventq.middleware import Middleware
from eventq.model import Attempt, Event, Failure, Note, Page, Progress, Record, Settings, State, Stats
from eventq.model import Worker as WorkerRecord
from eventq.notifications import Notification, Notifications
from eventq.options import CallOptions, TaskOptions
from eventq.queue import Queue
from eventq.schedule import Schedule, ScheduleOptions, Schedules
from eventq.stream import Stream, StreamHandle
from eventq.task import Task
from eventq.worker import Worker
from eventq.worker.control import WorkerStats
from eventq.workflow import NodeHandle, Run, Step, Workflow, Workflows

__version__ = "0.1.0"

__all__ = [
    "App",
    "AppConfig",
    "Attempt",
    "CallOptions",
    "Claim",
    "ClaimLost",
    "Codec",
    "ConfigError",
    "Context",
    "CorruptRecord",
    "DisabledTask",
    "DuplicateKey",
    "DuplicateName",
    "Event",
    "EventqError",
    "Failure",
    "Handle",
    "JSONCodec",
    "Job",
    "JobDisabled",
    "JobOptions",
    "JobReport",
    "JobRunning",
    "JobStatus",
    "Jobs",
    "Lock",
    "Middleware",
    "MissingExtra",
    "MsgpackCodec",
    "NamedClaim",
    "NodeHandle",
    "Note",
    "Notification",
    "Notifications",
    "OutcomeUnknown",
    "Page",
    "PayloadError",
    "Progress",
    "Queue",
    "QueueFull",
    "QueueSettings",
    "Record",
    "Reject",
    "ResultMissing",
    "ResultTimeout",
    "Retry",
    "Run",
    "RunFailed",
    "Schedule",
    "ScheduleOptions",
    "Schedules",
    "Semaphore",
    "Settings",
    "Stage",
    "StageReport",
    "State",
    "Stats",
    "Step",
    "StorageClosed",
    "StorageError",
    "Stream",
    "StreamHandle",
    "Task",
    "TaskCancelled",
    "TaskExpired",
    "TaskFailed",
    "TaskOptions",
    "TaskTimeout",
    "TemplateError",
    "UnknownEvent",
    "UnknownJob",
    "UnknownSchedule",
    "UnknownTask",
    "UnknownWorker",
    "Worker",
    "WorkerRecord",
    "WorkerStats",
    "Workflow",
    "Workflows",
    "__version__",
]

logging.getLogger("eventq").addHandler(logging.NullHandler())
