"""Faults injected into a real, guarded instance."""
