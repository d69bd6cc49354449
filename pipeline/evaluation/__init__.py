"""Predictions held against labels: by unit on a cluster, then summed up, in the paper's form, for its servers."""
