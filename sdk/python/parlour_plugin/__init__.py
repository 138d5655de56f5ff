"""Write plugins for Parlour in Python.

The modules bear the names of the contract's interfaces and hold its functions, with a few shorter ways beside
them.
"""
