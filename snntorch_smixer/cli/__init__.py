"""The command line, ``smixer``."""
