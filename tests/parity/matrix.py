"""The matrix: all cases, in the order in which they are shown."""

from cases_cancellation import CASES as CANCELLATION
from cases_company import CASES as COMPANY
from cases_configuration import CASES as CONFIGURATION
from cases_ends import CASES as ENDS
from cases_snapshot import CASES as SNAPSHOT
from cases_workspace import CASES as WORKSPACE

CASES = [*CONFIGURATION, *WORKSPACE, *SNAPSHOT, *COMPANY, *ENDS, *CANCELLATION]
