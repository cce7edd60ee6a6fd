"""The page of a metric, where its folder is a Space."""

import browser
import pytest
from conftest import ROOT
from metric_cases import METRICS, load

from hf_unlearn.metrics.widget import example


pytest.importorskip("gradio", reason="needs gradio: make test-space")


@pytest.mark.skipif(not (browser.CHROMIUM and browser.DRIVER), reason="needs chromium and chromedriver")
def test_page_computes_what_its_table_holds(tmp_path):
    metric = load("js_divergence")
    expected = metric.compute(**example(metric.features))
    app = METRICS / "js_divergence" / "app.py"
    with (
        browser.gradio_app(app, folder=tmp_path, PYTHONPATH=str(ROOT)) as address,
        browser.open_page(address, tmp_path) as page,
    ):
        page.wait("return document.querySelector('#compute') !== null")
        page.click("#compute")
        page.wait("return document.querySelector('#numbers').innerText.includes('js_divergence_test')")
        words = page.run("return document.querySelector('#numbers').innerText").split()
        for name, value in expected.items():
            assert words[words.index(name) + 1] == f"{value:.6g}"
        assert "Jensen-Shannon" in page.run("return document.body.innerText")
