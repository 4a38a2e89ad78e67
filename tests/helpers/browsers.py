"""A real browser that tests drive with selenium, where both are there."""

import contextlib
import importlib.util
import shutil

import pytest

_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")
_SELENIUM = importlib.util.find_spec("selenium")

needed = pytest.mark.skipif(
    not (_CHROMIUM and _DRIVER and _SELENIUM),
    reason="no browser: pip install selenium, "
    "apt-get install chromium chromium-driver",
)


@contextlib.contextmanager
def chromium():
    """Starts a browser without a window; yields its driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",  # root has none
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-extensions",
        "--disable-gpu",
        "--no-first-run",
        "--window-size=1280,1000",
    ):
        options.add_argument(argument)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    service = webdriver.ChromeService(executable_path=_DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver
