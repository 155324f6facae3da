"""The block of docs/hobs.md runs as it stands."""

from tests.pages import DOCS, run_page

PAGE = DOCS / "hobs.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run_page(PAGE)
    assert set(namespace["prices"]) == {group.name for group in namespace["hobs"].groups}
    assert namespace["plan"]
    assert namespace["plan_by_flops"]
    assert (tmp_path / "analysis.safetensors").stat().st_size > 0
