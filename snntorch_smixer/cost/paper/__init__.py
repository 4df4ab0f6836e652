"""The energy numbers of the paper and of published logs, rebuilt."""
