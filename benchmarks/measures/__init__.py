"""What is measured, each thing in a file, and in which order: `course`."""
