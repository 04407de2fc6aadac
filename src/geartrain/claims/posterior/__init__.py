"""Claims about posteriors over weights, and about chains that sample them."""
