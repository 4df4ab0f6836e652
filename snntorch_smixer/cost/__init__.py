"""What a run costs on a chip: exact counts, prices with their sources, fit."""
