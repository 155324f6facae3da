"""Audits of prices over seeds."""
