"""Files for containers and dashboards, read: they name what there is. No container is run."""

import json
import re

import pytest
import yaml
from source_tree import ROOT

from packrank.commands.parser import parser
from packrank.server.metrics import Metrics
from packrank.server.models import Models

DEPLOY = ROOT / "deploy"


def test_every_metric_of_the_dashboard_is_exposed() -> None:
    metrics = Metrics()
    metrics.watch(Models())
    known = set(re.findall(rb"^# TYPE (\S+)", metrics.exposed(), re.M))
    dashboard = json.loads((DEPLOY / "grafana/packrank.json").read_text())
    asked = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    names = {name for expr in asked for name in re.findall(r"\b(?:packrank|te)_\w+", expr)}
    assert len(names) > 12
    for name in names:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert {name.encode(), base.encode()} & known, name
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_compose_names_files_that_there_are() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    stages = re.findall(r"^FROM .* AS (\S+)", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert services["packrank"]["build"]["target"] in stages
    for service in services.values():
        assert "image" not in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file(), source
    for name in ("prometheus.yml", "grafana/sources.yaml", "grafana/dashboards.yaml"):
        assert yaml.safe_load((DEPLOY / name).read_text())


def test_images_run_as_nobody_in_particular_and_end_in_order() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for stage in re.split(r"^FROM ", text, flags=re.M)[1:]:
        if re.match(r".* AS (cpu|cuda)$", stage.partition("\n")[0]):
            for word in (
                "\nUSER packrank",
                "\nHEALTHCHECK",
                "\nSTOPSIGNAL SIGTERM",
                "\nEXPOSE 8000",
            ):
                assert word in stage, word
    assert not re.search(r"FROM \S+:latest|FROM [^:\s]+ ", text)
    assert (ROOT / ".dockerignore").read_text().split()


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--host", "0.0.0.0", "default"],
        ["serve", "default", "--host", "127.0.0.1", "--port", "8000"],
        ["serve", "--host", "0.0.0.0", "default", "--shutdown-timeout", "30"],
    ],
)
def test_commands_are_those_of_the_command_line(command: list[str]) -> None:
    assert parser().parse_args(command).models == ["default"]


def test_units_and_probes() -> None:
    unit = (DEPLOY / "packrank.service").read_text()
    assert "KillSignal=SIGTERM" in unit and "packrank serve default" in unit
    stop = int(re.findall(r"TimeoutStopSec=(\d+)", unit)[0])
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    drain = float(container["args"][container["args"].index("--shutdown-timeout") + 1])
    assert min(stop, pod["terminationGracePeriodSeconds"]) > drain
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
