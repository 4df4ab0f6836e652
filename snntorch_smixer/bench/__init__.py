"""Measuring any model: dense MACs, bytes kept for backward, peak bytes, kernel launches, paired time, throughput."""
