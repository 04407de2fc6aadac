"""Claims about structures inside networks: which there are, how they come about, and how they combine."""
