"""Reference maths of the hot operations; fast twins live beside their reference and agree with it."""
