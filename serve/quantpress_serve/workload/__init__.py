"""Loads and engine settings as data."""
