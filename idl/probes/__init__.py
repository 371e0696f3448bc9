"""The linear probe: statistics on the grid, the exact solver, the fitted model."""
