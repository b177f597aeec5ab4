"""What becomes of the values: figures, a table, a chart, files. Pure, but for `machine` and `files`."""
