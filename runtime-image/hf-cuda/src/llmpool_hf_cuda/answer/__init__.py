"""Tokens to what a client gets."""
