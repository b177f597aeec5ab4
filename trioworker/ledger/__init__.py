"""What a worker has claimed, written down so that whoever comes after it can bring it to its end."""
