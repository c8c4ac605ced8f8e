"""Extraction detection: six online signals, what they add up to, and the stance that follows. No torch."""
