"""What detseg does, as functions: the same as the verbs of the command line, which call them.

They are found in ``detseg`` itself: ``detseg.train``, ``detseg.load``, ...; each imports what it needs when called.
"""
