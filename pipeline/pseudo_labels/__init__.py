"""From annotations to training shards: which hands are good enough, which of those to keep, and their labels."""
