"""Function: what the trained network computes, whatever its parameters."""
