"""A person at the browser: a run from the form with settings changed, its pages, MLflow's, and a story of the model."""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from flows.presets import configure
from tests.e2e.conftest import run_slm
from tests.e2e.test_up import Up, up

PATIENCE = 60_000  # ms for a page to come
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make check installs it")
expect = playwright.expect
expect.set_options(timeout=PATIENCE)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHROMIUM = next(
    filter(
        None, map(shutil.which, (os.environ.get("SLM_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"))
    ),
    None,
)
RUN_PATIENCE = 600_000  # ms for a run to end
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
# What is typed into the form: a model of half a minute, whose stories are no text yet.
TYPED = {
    "source.num_stories": 600,
    "vocab.size": 300,
    "model.context": 64,
    "model.width": 32,
    "model.num_layers": 2,
    "train.max_steps": 400,
    "train.optimizer.learning_rate": 0.003,
    "evaluate.stories_per_prompt": 1,
    "evaluate.num_measured": 4,
    "release.gate.min_context_gain": 0,
    "release.gate.min_valid": 0,
    "release.gate.min_ended": 0,
    "release.gate.max_repeated": 1,
}


@pytest.fixture
def browser() -> Iterator[Any]:
    """A page of a headless Chromium that reaches nothing but loopback. What it asked for elsewhere fails the test."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's `chromium`, or name one with SLM_CHROMIUM")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
            ],
        )
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(PATIENCE)
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        context.route(lambda url: not is_loopback(url), lambda route: route.abort())
        yield context.new_page()
        chromium.close()
    assert asked
    assert [url for url in asked if not is_loopback(url)] == []


def is_loopback(url: str) -> bool:
    """Whether a browser need not leave this machine for it."""
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob") or parts.hostname in LOOPBACK


def describes(name: str) -> str:
    """What the form says of a setting of the preset."""
    *path, last = name.split(".")
    config: Any = configure("quick", {})
    for section in path:
        config = getattr(config, section)
    return str(type(config).model_fields[last].description)


def setting(page: Any, name: str) -> Any:
    """A setting's part of the form: its name, description and field."""
    nearest = "xpath=ancestor::*[contains(concat(' ', @class, ' '), ' schema-form-property ')][1]"
    return page.get_by_text(describes(name)).locator(nearest)


def take(page: Any, name: str) -> None:
    """Keep what is seen in $SLM_SCREENSHOTS, if there is one."""
    if folder := os.environ.get("SLM_SCREENSHOTS"):
        seen = Image.open(BytesIO(page.screenshot(animations="disabled")))
        seen.quantize(256).save(Path(folder) / f"{name}.png", optimize=True)  # half the bytes


def test_a_run_from_the_form_is_seen_through_to_a_story_of_its_model(browser: Any, tmp_path: Path) -> None:
    page = browser
    with up(tmp_path) as served:
        prefect, mlflow = (f"http://127.0.0.1:{port}" for port in served.ports)
        meet_a_stranger(page, served)
        log_in(page, served)
        run_id = fill_and_submit(page, prefect)
        watch(page, served, run_id)
        look_into_mlflow(page, mlflow, *read_pages(page, served, run_id))
        told = run_slm(served.artifacts, "generate", "Once upon a time", "--model", "quick@champion", "--seed", 1)
        assert told.returncode == 0, told.stderr
        assert told.stdout.startswith("Once upon a time") and len(told.stdout) > 100
    [manifest] = served.artifacts.glob("train/*/manifest.json")
    _, training = json.loads(manifest.read_text())["recipe"]["configs"]
    assert training["optimizer"]["learning_rate"] == TYPED["train.optimizer.learning_rate"]


def meet_a_stranger(page: Any, served: Up) -> None:
    """A page of another site finds nothing, and changes nothing, though both servers are on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{stranger.server_port}/")
        stranger.shutdown()
    body = json.dumps({"name": "planted", "type": "process"})
    deployment = served.ask("GET", "/deployments/name/build-model/quick")["id"]
    run = json.dumps({"job_variables": {"command": "touch planted"}})
    for port, path, sent in (
        (served.ports[0], "/api/admin/version", None),
        (served.ports[0], "/api/work_pools/", body),
        (served.ports[0], f"/api/deployments/{deployment}/create_flow_run", run),
        (served.ports[1], "/ajax-api/2.0/mlflow/experiments/search?max_results=9", None),
        (served.ports[1], "/ajax-api/2.0/mlflow/registered-models/create", json.dumps({"name": "planted"})),
    ):
        for mode in ("cors", "no-cors"):
            for kind in ("application/json", "text/plain"):
                got = page.evaluate(FETCH, [f"http://127.0.0.1:{port}{path}", sent, mode, kind])
                assert got in ("refused", "opaque")
    assert served.ask("POST", "/work_pools/filter", {})[0]["name"] == "local"
    assert served.ask("POST", "/flow_runs/filter", {}) == []
    with served.open(served.ports[1], "/api/2.0/mlflow/registered-models/search") as models:
        assert json.load(models) == {}


# What a page can see of an answer: opaque is nothing of it.
FETCH = """async ([url, body, mode, kind]) => {
  const options = {mode, credentials: "include", headers: {"Content-Type": kind}}
  if (body !== null) Object.assign(options, {method: "POST", body})
  try { const answer = await fetch(url, options); return answer.type == "opaque" ? "opaque" : await answer.text() }
  catch { return "refused" }
}"""


def log_in(page: Any, served: Up) -> None:
    """By the links that `slm up` prints."""
    page.goto(f"{served.url.removesuffix('/api')}/deployments")
    expect(page.get_by_role("button", name="Login")).to_be_visible()
    take(page, "logged-out")
    wrong = f"{served.links[0].partition('#')[0]}#guessed"
    page.goto(wrong)
    expect(page.get_by_text("use the link that it printed")).to_be_visible()
    prefect, mlflow = served.links
    page.goto("about:blank")
    page.goto(prefect)
    expect(page.get_by_role("button", name="Deployments")).to_be_visible()
    assert served.login.partition(":")[2] not in page.url
    take(page, "logged-in")
    page.goto(mlflow)
    expect(page.get_by_role("link", name="Experiments").first).to_be_visible()
    assert "@" not in page.url
    take(page, "mlflow")


def fill_and_submit(page: Any, prefect: str) -> str:
    """Starts a run from the form; its id."""
    page.goto(f"{prefect}/deployments")
    page.get_by_role("link", name="quick", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("link", name="Custom run").click()
    rate = setting(page, "train.optimizer.learning_rate")
    expect(rate.get_by_role("spinbutton")).to_have_value("0.008")  # the preset's own
    expect(rate).to_contain_text(f"{describes('train.optimizer.learning_rate')} Above 0.")
    expect(setting(page, "source.num_stories").get_by_role("spinbutton")).to_have_value("20000")
    take(page, "form")
    for name, value in TYPED.items():
        setting(page, name).get_by_role("spinbutton").fill(str(value))
    setting(page, "release.gate.may_memorise").get_by_role("switch").click()
    rate.scroll_into_view_if_needed()
    take(page, "form-learning-rate")
    for _ in range(5):  # a server whose database is busy answers 503, and a person clicks again
        with page.expect_response(lambda answer: answer.url.endswith("/create_flow_run")) as answered:
            page.get_by_role("button", name="Submit").click()
        if answered.value.ok:
            break
    assert answered.value.ok, (answered.value.text(), answered.value.request.post_data)
    return str(answered.value.json()["id"])


def loaded(page: Any) -> None:
    """Waits for the whole page of a run: one that is still loading goes back to its first tab."""
    expect(page.get_by_role("link", name="build-model")).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    expect(page.get_by_text("Running 1 deployment pull step")).to_be_visible()


def page_of(served: Up, run_id: str, key: str) -> str:
    """Address of what a run has left under a key, once it is there."""
    end = time.monotonic() + RUN_PATIENCE / 1000
    while True:
        wanted = {"artifacts": {"key": {"any_": [key]}}, "flow_runs": {"id": {"any_": [run_id]}}}
        found = served.ask("POST", "/artifacts/filter", wanted)
        if found:
            return f"{served.url.removesuffix('/api')}/artifacts/artifact/{found[0]['id']}"
        assert time.monotonic() < end, f"no {key}: {served.logs(run_id)}"
        time.sleep(0.5)


def watch(page: Any, served: Up, run_id: str) -> None:
    run = f"{served.url.removesuffix('/api')}/runs/flow-run/{run_id}"
    page.goto(page_of(served, run_id, "train-loss"))
    expect(page.get_by_text("validation bits per byte")).to_be_visible()
    take(page, "live-loss")
    page.goto(run)
    expect(page.get_by_text("quick: transformer on storygen")).to_be_visible()
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=RUN_PATIENCE)
    loaded(page)
    take(page, "run")
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    listed = page.get_by_role("tabpanel").get_by_role("link")
    for key in ("data-page", "walk-page", "mlflow-run", "model-version"):
        expect(listed.filter(has_text=key)).to_be_visible()
    listed.filter(has_text="model-page").click()
    expect(page.get_by_role("heading", name="Score card")).to_be_visible()


def read_pages(page: Any, served: Up, run_id: str) -> tuple[str, str]:
    """Looks at the run's pages. Gives its links to MLflow: the training and the version."""
    for key, title in (
        ("data-page", "From the source to the shards"),
        ("walk-page", "A story's walk"),
        ("model-page", "Score card"),
    ):
        page.goto(page_of(served, run_id, key))
        expect(page.get_by_role("heading", name=title)).to_be_visible()
        take(page, key)
    links = []
    for key, name in (("mlflow-run", re.compile("^[0-9a-f]{32}$")), ("model-version", "quick/1")):
        page.goto(page_of(served, run_id, key))
        links.append(str(page.get_by_role("link", name=name).get_attribute("href")))
    return links[0], links[1]


def look_into_mlflow(page: Any, mlflow: str, training: str, version: str) -> None:
    assert training.startswith(mlflow) and version.startswith(mlflow)
    page.goto(training)
    page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()  # it takes a third of the window
    page.get_by_placeholder("Search parameters").fill("train.optimizer.learning_rate")
    expect(page.get_by_text("0.003", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Model metrics").click()
    page.get_by_placeholder("Search metric charts").fill("loss")
    expect(page.locator("svg.main-svg path.js-line[d*=L]")).to_have_count(2)  # train and val: a line of many points
    take(page, "mlflow-curves")
    page.goto(version)
    expect(page.get_by_text("@ champion").first).to_be_visible()
    take(page, "mlflow-version")
    page.goto(f"{mlflow}/#/models/quick?workflowType=machine_learning")
    expect(page.get_by_text("@ champion").first).to_be_visible()
    take(page, "mlflow-model")
