"""Is any network cut rightly?  An oracle, random networks and a zoo of published ones."""
