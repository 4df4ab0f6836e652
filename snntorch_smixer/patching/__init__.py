"""Patching existing models."""
