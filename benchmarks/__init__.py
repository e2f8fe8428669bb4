"""Measures eventq beside other queues, in one run on one machine: `python -m benchmarks`. See README.md."""
