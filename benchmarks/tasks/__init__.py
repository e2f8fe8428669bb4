"""Task queues: the same few tasks in each system (`*_tasks.py`), and how each is driven (`systems.py`)."""
