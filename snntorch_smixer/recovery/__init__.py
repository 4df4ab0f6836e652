"""Give a pruned net back what pruning cost, without labels, and choose the pruning under a budget."""
