"""What it takes to measure: the server, both workers as observed processes, and the gate between them."""
