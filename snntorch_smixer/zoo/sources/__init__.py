"""Converters of published checkpoints: state dict in, configuration and state dict of our network out."""
