"""Flow runs as processes on this machine."""
