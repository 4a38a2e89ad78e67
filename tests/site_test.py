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
def built(tmp_path_factory):
    """The site, and how its program ended: a page has two dead links.

    In a copy of the project. All pages are written all the same.
    """
    if not all(map(importlib.util.find_spec, NEEDED)):
        pytest.skip("no mkdocs: pip install --editable '.[docs]'")
    copy = tmp_path_factory.mktemp("copy")
    for name in ("docs", "benchmarks", "experiments", "deploy", "stacked_rnn"):
        shutil.copytree(ROOT / name, copy / name)
    for path in (*ROOT.glob("*.md"), ROOT / "LICENSE"):
        shutil.copy(path, copy)
    (copy / "saved_models").mkdir()
    shutil.copy(ROOT / "saved_models/README.md", copy / "saved_models")
    with open(copy / "docs/faq.md", "a", encoding="utf-8") as page:
        page.write("\n[a page](trian.md), [a heading](train.md#nowhere)\n")
    ended = run_anew(copy, copy / "docs/build_site.py", copy / "made")
    return copy / "made", ended


@pytest.fixture(scope="module")
def site(built):
    return built[0]


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
def test_the_search_works_from_a_disk(site, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get_log("performance")  # what other tests have loaded
    browser.get((site / "index.html").as_uri())
    field = browser.find_element(By.NAME, "query")
    field.click()
    field.send_keys("temperature")
    WebDriverWait(browser, 30).until(
        lambda browser: browser.find_elements(
            By.CSS_SELECTOR, "a.md-search-result__link"
        )
    )
    requests = [
        json.loads(entry["message"])["message"]["params"].get("request", {})
        for entry in browser.get_log("performance")
    ]
    assert not any(
        request.get("url", "").startswith("http") for request in requests
    )


def test_dead_links_are_errors(built):
    """The two that were added, and no other."""
    _, ended = built
    assert ended.returncode == 1
    for link in ("trian.md", "train.md#nowhere"):
        warning = rf"WARNING.*docs/faq\.md.*{link}"
        assert re.search(warning, ended.stderr), ended.stderr
    assert len(re.findall("^WARNING", ended.stderr, re.M)) == 2, ended.stderr
