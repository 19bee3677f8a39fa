"""Shell scripts followed as far as their text decides what they do; nothing is run.

parse.py gives the syntax tree, expand.py turns its words into text, walk.py goes through the statements.
"""
