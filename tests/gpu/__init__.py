"""Everything that runs on a device: on the GPUs present, and on one that is not there."""
