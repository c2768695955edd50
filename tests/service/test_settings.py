"""Settings from flags and environment: precedence, validation and error messages."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from service.api_keys import make
from service.contract.errors import SettingsError
from service.settings import DEFAULT_MODEL, REMOVED, ROOT, Settings, flag, options, removed, table


def refused(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_args(argv, environ or {})
    assert caught.value.exit_code == 78
    return caught.value.message


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings.from_args([], {})
    assert settings == Settings()
    assert (settings.model, settings.port, settings.health_port) == (DEFAULT_MODEL, 7860, 8000)
    assert (settings.host, settings.health_host, settings.run_dir) == ("0.0.0.0", "0.0.0.0", ROOT)
    assert (settings.timeout, settings.load_attempts) == (15.0, 3)


def test_a_flag_wins_over_its_variable_and_a_variable_over_the_default() -> None:
    environ = {"OFA_PORT": "1111", "PROBE_INTERVAL": "5", "OFA_HOST": ""}
    settings = Settings.from_args(["--port", "2222"], environ)
    assert (settings.port, settings.probe_interval, settings.host) == (2222, 5.0, "0.0.0.0")


def test_every_option_has_a_flag_and_a_variable_that_do_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.settings.TRACING", ())  # as if requirements-otel.txt were installed
    password_file = tmp_path / "password"
    password_file.write_text("open sesame\n")
    samples = {"verify": "full", "backend": "native", "device": "cpu", "dtype": "bf16"}
    samples |= dict.fromkeys(("cache_dir", "run_dir"), "/nowhere/yet")
    samples |= {"hub_endpoint": "http://127.0.0.1:1", "log_max_bytes": "2048", "ops": "off"}
    samples |= {"log_level": "debug", "log_format": "json", "otlp_endpoint": "http://127.0.0.1:4318"}
    samples |= {"ops_password_file": str(password_file), "trusted_proxies": "10.0.0.0/8,::1"}
    samples |= {"root_path": "/vqa", "language": "any", "engine": "http://127.0.0.1:1"}
    samples |= {"page_password_file": str(password_file), "api_keys_file": str(tmp_path / "keys")}
    make(tmp_path / "keys", "shop")
    samples |= {"engine_key_file": str(tmp_path / "key")}
    (tmp_path / "key").write_text("key\n")
    (tmp_path / "key").chmod(0o600)
    samples |= dict.fromkeys(("precision_guard", "converted_cache", "page"), "off")
    for name, option in options().items():
        if option.secret:
            continue
        sample = samples.get(name, "1")
        needed = ["--engine", samples["engine"]] if name == "engine_key_file" else []
        by_flag = Settings.from_args([*needed, flag(name), sample], {})
        by_variable = Settings.from_args(needed, {option.env: sample})
        assert by_flag == by_variable, name
        assert name == "backend" or by_flag != Settings(), name


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("512M", 512 << 20), ("6g", 6 << 30), ("2GiB", 2 << 30), ("1T", 1 << 40)],
)
def test_a_size_may_be_given_in_units_of_1024(text: str, size: int) -> None:
    assert Settings.from_args(["--max-rss", text], {}).max_rss == size


def test_no_two_options_share_a_variable() -> None:
    names = [option.env for option in options().values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("argv", "allowed"),
    [
        (["--port", "http"], "a whole number from 0 to 65535"),
        (["--port", "65536"], "a whole number from 0 to 65535"),
        (["--timeout", "nan"], "a number from 0.01 to 3600 seconds"),
        (["--max-rss", "1.5G"], "bytes, or a number with K, M, G or T"),
        (["--max-gpu-memory", "-1"], "bytes, or a number with K, M, G or T"),
        (["--timeout", "0"], "a number from 0.01 to 3600 seconds"),
        (["--device", "gpu"], "auto, cpu, cuda, cuda:N"),
        (["--dtype", "int4"], "auto, fp32, bf16, fp16, int8"),
        (["--backend", "onnx"], "native, modelscope"),
        (["--queue-size", "0"], "a whole number from 1 to 100000"),
        (["--host", "a b"], "a host name or an address"),
        (["--model", " "], "demo, a folder, or a hub id"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(argv: list[str], allowed: str) -> None:
    message = refused(argv)
    assert allowed in message
    assert argv[0] in message
    assert repr(argv[1]) in message


def test_a_wrong_variable_is_named() -> None:
    assert refused([], {"OFA_TIMEOUT": "soon"}).startswith("OFA_TIMEOUT='soon' is not allowed.")


def test_unknown_flags_and_abbreviations_are_refused() -> None:
    assert "--nonsense" in refused(["--nonsense", "1"])
    assert "--heal" in refused(["--heal", "1"])
    assert "expected one argument" in refused(["--port"])


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    assert "both 8000" in refused(["--port", "8000"])
    assert Settings.from_args(["--port", "0", "--health-port", "0"], {}).port == 0
    assert "--reference-python" in refused(["--backend", "modelscope"])
    assert "OpenTelemetry" in refused(["--otlp-endpoint", "http://127.0.0.1:4318"])
    (tmp_path / "file").touch()
    assert "a folder" in refused(["--run-dir", str(tmp_path / "file")])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:7860",
        "ftp:HOST",
        "http:",
        "http://",
        "http:///v1",
        "http:HOST:0",
        "http:" + "//ü..x",
        "http:HOST:65536",
        "http:HOST:port",
        "http://[::1",
        "http:HOST/?key=s3cret",
        "http:HOST?",
        "http:HOST/#s3cret",
        "http:HOST/a b",
        "http:HOST/\n",
        "http:" + "//user:s3cret@HOST",
        "http:" + "//s3cret@HOST",
    ],
)
def test_an_odd_address_of_the_engine_is_refused_without_its_secrets(address: str) -> None:
    url = address.replace(":HOST", "://127.0.0.1").replace("HOST", "127.0.0.1")
    message = refused(["--engine", url])
    assert message.startswith("--engine")
    assert "s3cret" not in message or "@" not in url


def test_an_engine_may_have_a_path_and_excludes_a_model() -> None:
    assert Settings.from_args(["--engine", "https://[::1]:8443/vqa/"], {}).engine == "https://[::1]:8443/vqa"
    engine = ["--engine", "http://127.0.0.1:8080"]
    for name, sample in {"model": "demo", "revision": "v1", "device": "cpu", "dtype": "fp32"}.items():
        message = refused([*engine, flag(name), sample])
        assert "--engine" in message
        assert flag(name) in message
        assert options()[name].env in refused(engine, {options()[name].env: sample})
    assert "--backend" in refused([*engine, "--backend", "native"])
    assert "--engine" in refused(["--engine-key-file", "key"])


def test_help_names_every_flag_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.from_args(["--help"], {})
    assert caught.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for name, option in options().items():
        if option.secret:
            continue
        assert flag(name) in told
        assert f"{option.env})" in told
        assert option.type.allowed in told


def test_the_table_for_the_docs_has_a_row_for_every_option() -> None:
    rows = table().splitlines()[2:]
    assert len(rows) == len(dataclasses.fields(Settings))
    assert rows[0].startswith("| `--model` | `OFA_MODEL` | `iic/")
    assert all(row.count("|") == 6 for row in rows)


def test_a_removed_variable_is_reported_and_sets_nothing() -> None:
    environ = {"OFA_LOAD_PAUSE": "soon", "OFA_PORT": "1111"}
    assert removed(environ) == ["OFA_LOAD_PAUSE"]
    assert Settings.from_args([], environ) == Settings(port=1111)
    assert not {option.env for option in options().values()} & set(REMOVED)


def test_evidence_outlives_an_interval_and_two_full_probes() -> None:
    assert Settings(probe_interval=60, probe_timeout=15).evidence_ttl == 90


# ---- the one secret --------------------------------------------------------------------------------------

SECRET = "open sesame"


def test_the_password_comes_from_its_variable_or_from_a_files_first_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\nand a remark\n")
    assert Settings.from_args([], {}).read_ops_password() is None
    assert Settings.from_args([], {"OFA_OPS_PASSWORD": SECRET}).read_ops_password() == SECRET
    assert Settings.from_args(["--ops-password-file", str(file)], {}).read_ops_password() == SECRET
    both = {"OFA_OPS_PASSWORD": SECRET, "OFA_OPS_PASSWORD_FILE": str(file)}
    assert "both set" in refused([], both)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"short\n", b"\xff\xfe\n"])
def test_a_password_file_that_holds_none_is_refused_at_once(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    told = refused(["--ops-password-file", str(file)])
    assert "short" not in told.replace(str(file), "")


@pytest.mark.parametrize(
    ("files", "page", "served"),
    [
        ((), "on", True),
        ((), "off", False),
        ((), "open", True),
        (("keys",), "on", False),
        (("keys",), "off", False),
        (("keys",), "open", True),
        (("password",), "on", True),
        (("keys", "password"), "on", True),
        (("password",), "off", None),
        (("password",), "open", None),
    ],
)
def test_with_api_keys_a_page_needs_a_password_or_to_be_declared_open(
    tmp_path: Path, files: tuple[str, ...], page: str, served: bool | None
) -> None:
    (tmp_path / "password").write_text(SECRET)
    make(tmp_path / "keys", "shop")
    flags = {"keys": "--api-keys-file", "password": "--page-password-file"}
    argv = [word for name in files for word in (flags[name], str(tmp_path / name))]
    if served is None:
        assert "exclude each other" in refused([*argv, "--page", page])
    else:
        assert Settings.from_args([*argv, "--page", page], {}).page_served is served


@pytest.mark.parametrize("flag", ["--page-password-file", "--api-keys-file"])
def test_a_file_that_is_missing_is_refused_at_once(tmp_path: Path, flag: str) -> None:
    refused([flag, str(tmp_path / "missing")])


@pytest.mark.parametrize(
    "argv", [["--ops-password", SECRET], [f"--ops-password={SECRET}"], ["--ops-password"]]
)
def test_the_password_is_not_a_flag_and_is_not_repeated(argv: list[str]) -> None:
    told = refused(argv)
    assert "is not a flag" in told
    assert SECRET not in told


def test_the_password_is_shown_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.from_args([], {"OFA_OPS_PASSWORD": SECRET})
    assert SECRET not in repr(settings)
    assert SECRET[:7] not in refused([], {"OFA_OPS_PASSWORD": SECRET[:7]})
    with pytest.raises(SystemExit):
        Settings.from_args(["--help"], {"OFA_OPS_PASSWORD": SECRET})
    told = capsys.readouterr().out
    assert "--ops-password-file" in told
    assert SECRET not in told + table()
    assert "--ops-password " not in told
