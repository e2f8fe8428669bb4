"""The proof that nothing is lost: faults, deaths, races, power cuts and hostile content, and what is left after them.

`disk` stands in for the module through which every disk call of the file storage goes; `world` is a store with its
workers and a ledger of what they were promised; `check` opens it again and holds it to that promise.
"""
