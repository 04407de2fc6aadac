"""Representations: features, memories and symmetries that were planted."""
