"""Start and drive real processes from outside: instances, guardians, a hub on loopback."""
