"""Model zoo: cards, names, and loading weights."""
