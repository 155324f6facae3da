"""Promises that agents and environments make each other; monitor."""
