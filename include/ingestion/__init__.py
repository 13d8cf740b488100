"""Sources deliver partitions; validation decides which of their rows the rest may see."""
