"""Under pytest-xdist every worker process has one core, so torch and Inductor get one thread each.

Tests about threads set their number themselves. The variables reach the processes that tests start, too.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
