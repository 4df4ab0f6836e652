"""Measuring any model: dense MACs, bytes kept for backward, throughput."""
