"""From the hands of single frames to tracks: who is who over time, one shape, smooth motion, short gaps filled."""
