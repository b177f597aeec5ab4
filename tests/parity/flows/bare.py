"""Not a flow: what an explicit command of the matrix starts."""

import sys

import probe

probe.take()
sys.exit(int(sys.argv[1]))
