"""Training: recipe, data, loop. Needs the extra "train" for the loop."""
