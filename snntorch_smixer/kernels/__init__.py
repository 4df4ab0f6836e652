"""Reference maths of the hot operations; fast forms stand beside their reference and agree with it."""
