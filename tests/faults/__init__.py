"""Faults brought upon a real, guarded instance from outside, and what they cost its users."""
