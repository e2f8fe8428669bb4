"""Staged jobs, over every storage: their stages, what becomes of them, and what changes do, whoever is killed."""
