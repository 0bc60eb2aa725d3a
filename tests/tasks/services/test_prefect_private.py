"""What we use of Prefect's server that Prefect does not document."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tasks.services.prefect_private import APPLICATION, FOR_ONE_RUN


def test_prefects_server_has_the_application_and_reads_the_variables_that_we_use() -> None:
    module, _, factory = APPLICATION.partition(":")
    found = find_spec(module)
    remedy = f"prefect {version('prefect')} has moved it: change tasks/services/prefect_private.py"
    assert found is not None and found.origin is not None, f"{module}: {remedy}"
    source = Path(found.origin).read_text()
    assert f"def {factory}(" in source, f"{factory}: {remedy}"
    for name in FOR_ONE_RUN:
        assert name in source, f"{name}: {remedy}"
