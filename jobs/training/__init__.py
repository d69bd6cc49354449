"""What `handocc train` is made of: the loop that every worker runs, and what it reads and leaves."""
