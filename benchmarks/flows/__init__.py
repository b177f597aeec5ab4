"""What the workers run: `hello` is loaded by the processes of the runs, `functions` by our worker itself."""
