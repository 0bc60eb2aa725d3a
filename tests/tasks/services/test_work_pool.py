"""The work pool of slm up: a run has no command and no environment of its own."""

from prefect.utilities.templating import apply_values

from tasks.services.up import NO_JOB_VARIABLES


def test_a_worker_ignores_job_variables_that_a_deployment_was_given() -> None:
    """Prefect's server refuses those of a run, and not those of an existing deployment that is changed."""
    given = {"command": "touch here", "env": {"A": "b"}, "working_dir": "/tmp", "stream_output": False}
    assert apply_values(NO_JOB_VARIABLES["job_configuration"], given) == {"stream_output": True}
