"""Drive Ray Serve clusters on loopback from outside, and measure them. Runs in the environment .venv-ray."""
