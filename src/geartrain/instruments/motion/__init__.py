"""Motion: where the parameters and the function go, step by step and along the run."""
