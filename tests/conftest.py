"""What holds for all tests."""

from tasks.home import calm_threads

calm_threads()  # before torch is imported: several test processes share the cores
