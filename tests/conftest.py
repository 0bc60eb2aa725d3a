"""What holds for all tests."""

import os
import signal

from hypothesis import HealthCheck, settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored, which processes inherit
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: several test processes share the cores

# The same examples every time, however slow the machine: a red test is a change's fault. `--hypothesis-profile explore`
# looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, derandomize=False, max_examples=1000, print_blob=True)
settings.load_profile("same")
