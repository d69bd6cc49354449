"""What `handocc pseudo-label` is made of: what it is asked for, and the annotations that it chooses from."""
