"""The documentation as a site: it builds without a dead link, works offline."""

import importlib.util
import json
import re
import shutil

import pytest

from tests.helpers import ROOT, browsers
from tests.helpers.processes import run_anew

PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not all(map(importlib.util.find_spec, NEEDED)):
        pytest.skip("no mkdocs: pip install --editable '.[docs]'")
    directory = tmp_path_factory.mktemp("site")
    ended = run_anew(directory, "docs/build_site.py", directory / "made")
    assert ended.returncode == 0, ended.stderr
    return directory / "made"


def test_every_page_is_in_the_navigation():
    configuration = (ROOT / "docs/mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in PAGES if f"docs/{page}" not in configuration] == []


def test_the_site_has_the_pages_and_the_docstrings(site):
    for page in PAGES:
        assert (site / "docs" / page).with_suffix(".html").exists()
    api = (site / "docs/api/inference.html").read_text(encoding="utf-8")
    assert "SavedLanguageModel.generate" in api and "num_samples" in api
    assert "<code>_sampling" not in api  # what is private


def test_the_site_loads_nothing_from_elsewhere(site):
    loaded = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?http')
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text(encoding="utf-8")), page


@browsers.needed
def test_the_search_works_from_a_disk(site):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with browsers.chromium() as driver:
        driver.get((site / "index.html").as_uri())
        field = driver.find_element(By.NAME, "query")
        field.click()
        field.send_keys("temperature")
        WebDriverWait(driver, 30).until(
            lambda driver: driver.find_elements(
                By.CSS_SELECTOR, "a.md-search-result__link"
            )
        )
        requests = [
            json.loads(entry["message"])["message"]["params"].get("request", {})
            for entry in driver.get_log("performance")
        ]
    assert not any(
        request.get("url", "").startswith("http") for request in requests
    )


def test_dead_links_are_errors(site, tmp_path):
    """In a copy of the project."""
    for name in ("docs", "benchmarks", "experiments", "deploy", "stacked_rnn"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for path in (*ROOT.glob("*.md"), ROOT / "LICENSE"):
        shutil.copy(path, tmp_path)
    (tmp_path / "saved_models").mkdir()
    shutil.copy(ROOT / "saved_models/README.md", tmp_path / "saved_models")
    with open(tmp_path / "docs/faq.md", "a", encoding="utf-8") as page:
        page.write("\n[a page](trian.md), [a heading](train.md#nowhere)\n")
    program = tmp_path / "docs/build_site.py"
    ended = run_anew(tmp_path, program, tmp_path / "made")
    assert ended.returncode == 1
    for link in ("trian.md", "train.md#nowhere"):
        warning = rf"WARNING.*docs/faq\.md.*{link}"
        assert re.search(warning, ended.stderr), ended.stderr
