"""The matrix: all cases, in the order in which they are shown."""

from cases_cancellation import CASES as CANCELLATION
from cases_configuration import CASES as CONFIGURATION
from cases_ends import CASES as ENDS
from cases_workspace import CASES as WORKSPACE

CASES = [*CONFIGURATION, *WORKSPACE, *ENDS, *CANCELLATION]
