"""Loss curve: slope, plateaus, spikes and oscillation of what training recorded."""
