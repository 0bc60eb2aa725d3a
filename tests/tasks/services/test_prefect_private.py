"""What we use of Prefect's server that Prefect does not document."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tasks.services.prefect_private import APPLICATION, BROWSER_LOGIN, FOR_ONE_RUN, SERVER_LOGIN, send_all_reports


def test_prefects_server_has_the_application_and_reads_the_variables_that_we_use() -> None:
    module, _, factory = APPLICATION.partition(":")
    found = find_spec(module)
    remedy = f"prefect {version('prefect')} has moved it: change tasks/services/prefect_private.py"
    assert found is not None and found.origin is not None, f"{module}: {remedy}"
    source = Path(found.origin).read_text()
    assert f"def {factory}(" in source, f"{factory}: {remedy}"
    for name in FOR_ONE_RUN:
        assert name in source, f"{name}: {remedy}"


def test_prefects_server_wants_the_login_and_its_pages_keep_it_where_we_put_it() -> None:
    import prefect
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING

    remedy = f"prefect {prefect.__version__} has moved it: change tasks/services/prefect_private.py"
    assert PREFECT_SERVER_API_AUTH_STRING.name == SERVER_LOGIN, remedy
    pages = Path(prefect.__ui_static_path__).rglob("*.js")
    assert any(f"localStorage.getItem(`{BROWSER_LOGIN}`)" in page.read_text() for page in pages), remedy


def test_prefect_sends_events_and_log_lines_by_threads_that_can_be_ended() -> None:
    send_all_reports()
