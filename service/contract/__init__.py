"""Values that every part of the service shares, and no behaviour."""
