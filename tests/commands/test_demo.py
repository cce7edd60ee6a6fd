"""What `hf-unlearn demo` refuses before its work. The demo itself is run by `make demo`."""

from hf_unlearn.commands.main import main


def test_page_without_gradio_is_refused_before_the_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("hf_unlearn.commands.demo.find_spec", lambda name: None)
    assert main(["demo", "--app", "--output_dir", str(tmp_path / "demo")]) == 2
    error = capsys.readouterr().err
    assert error == "hf-unlearn: error: --app: needs the library gradio: pip install 'hf-unlearn[app]'.\n"
    assert not (tmp_path / "demo").exists()
