"""Model folders: card, configuration, weights, README; what is in them, and how they are read and written."""
