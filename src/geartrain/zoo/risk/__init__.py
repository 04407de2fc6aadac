"""Risk curves and decisions: test errors and choices that theory predicts."""
