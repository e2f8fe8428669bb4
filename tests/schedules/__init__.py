"""Schedules, over every storage: what is due when, what is put then, and what changes do, whoever is killed."""
