"""Tasks and the workers that run them, over every storage that needs no server.

Workers run in a thread of the test, or in processes of their own. Every wait has a bound, and ends by a fact.
"""
