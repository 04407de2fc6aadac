"""Companions: small systems that answer one question each."""
