"""Claims about generalisation: double descents, grokking."""
