"""Shell scripts followed as far as their text decides what they do; nothing is run.

parse.py gives the syntax tree, expand.py turns its words into text, documents.py is about here-documents, walk.py goes
through the statements with a state.py for each way.
"""
