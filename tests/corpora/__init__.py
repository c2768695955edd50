"""Whole collections of files, fetched when they are asked for."""
