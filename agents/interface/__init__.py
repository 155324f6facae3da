"""What agents and environments promise each other; monitor."""
