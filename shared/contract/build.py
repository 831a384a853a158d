"""Builds the contract model from a FileDescriptorSet, in a private descriptor pool.

Every rule of DESIGN "The contract is the product" is checked here; all problems of a set are reported together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from penstock.contract.v1 import contract_pb2

from shared.contract import binding, record
from shared.contract.compile import PROTOS, compile_folder
from shared.contract.model import ContractSet, Dataset, Service
from shared.contract.rules import rule_problems
from shared.errors import ContractError


def load_contracts(path: Path | None = None) -> ContractSet:
    """The contracts of a folder of .proto files or of a compiled FileDescriptorSet; None: the repository's `protos/`.

    Raises ContractError whose problems read `file: message.field: reason`.
    """
    path = path or PROTOS
    if path.is_dir():
        return build_contracts(compile_folder(path))
    if path.suffix == ".proto":
        raise ContractError([f"{path}: is one .proto file; name the folder that its imports and package start from"])
    try:
        return build_contracts(path.read_bytes())
    except OSError as exc:
        reason = f"{path}: cannot be read ({exc.strerror}); point PENSTOCK_CONTRACTS at a folder or a descriptor set"
        raise ContractError([reason]) from exc


def build_contracts(descriptor_set: bytes) -> ContractSet:
    """The contracts of a serialised FileDescriptorSet; raises ContractError with every problem found."""
    descriptors = descriptor_pb2.FileDescriptorSet()
    try:
        # The generated contract_pb2 is imported above, so its extensions are parsed and not left as unknown fields:
        # a private pool's own GetOptions() would not show them.
        descriptors.ParseFromString(descriptor_set)
    except DecodeError as exc:
        raise ContractError(["not a FileDescriptorSet: compile it with protoc --include_imports -o FILE"]) from exc
    _require_our_options(descriptors)
    pool, files = _fill_pool(descriptors)
    problems: list[str] = []
    datasets = _datasets(files, problems)
    services = _services(files, datasets, problems)
    if problems:
        raise ContractError(problems)
    return ContractSet(
        pool=pool,
        descriptors=descriptors,
        datasets={dataset.name: dataset for dataset in datasets.values()},
        services=tuple(services),
    )


def _require_our_options(descriptors: descriptor_pb2.FileDescriptorSet) -> None:
    ours = descriptor_pb2.FileDescriptorProto.FromString(contract_pb2.DESCRIPTOR.serialized_pb)
    for file in descriptors.file:
        # Told by its package: a set that was compiled from a folder above has it under a longer path.
        if file.package == ours.package and file.extension and _without_noise(file) != _without_noise(ours):
            reason = "differs from the one this service was built with; compile the contracts against this version"
            raise ContractError([f"{file.name}: {reason}"])


def _without_noise(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """The file without what compilers add or drop at will: its path, source positions, derived JSON names.

    `buf build` marks each file with a field of its own, which protobuf does not know.
    """
    plain = descriptor_pb2.FileDescriptorProto()
    plain.CopyFrom(file)
    plain.DiscardUnknownFields()
    plain.ClearField("name")
    plain.ClearField("source_code_info")
    for message in plain.message_type:
        for field in message.field:
            field.ClearField("json_name")
    for extension in plain.extension:
        extension.ClearField("json_name")
    return plain


def _fill_pool(descriptors: descriptor_pb2.FileDescriptorSet) -> tuple[DescriptorPool, list[FileDescriptor]]:
    pool = DescriptorPool()
    waiting = {file.name: file for file in descriptors.file}
    order: list[str] = []
    for name in list(waiting):
        _add(pool, name, waiting, order)
    return pool, [pool.FindFileByName(name) for name in order]


def _add(
    pool: DescriptorPool, name: str, waiting: dict[str, descriptor_pb2.FileDescriptorProto], order: list[str]
) -> None:
    file = waiting.pop(name, None)
    if file is None:
        return
    for dependency in file.dependency:
        _add(pool, dependency, waiting, order)
    try:
        pool.AddSerializedFile(file.SerializeToString())
    except (TypeError, ValueError) as exc:
        raise ContractError([f"{name}: {exc}; compile the set with --include_imports"]) from exc
    order.append(name)


def _messages(descriptor: Descriptor) -> Iterator[Descriptor]:
    yield descriptor
    for nested in descriptor.nested_types:
        yield from _messages(nested)


def _datasets(files: list[FileDescriptor], problems: list[str]) -> dict[str, Dataset]:
    """Datasets by the full name of their record message; a dataset with problems is left out and reported."""
    found: dict[str, Dataset] = {}
    owners: dict[str, str] = {}
    for file in files:
        for message in (m for top in file.message_types_by_name.values() for m in _messages(top)):
            options = record.dataset_options(message)
            if options is None:
                continue
            complaints = record.problems(message, options)
            if not complaints and record.has_rules(message):
                problems += [f"{file.name}: {text}" for text in rule_problems(message)]
            if options.name in owners:
                complaints.append(f"dataset name {options.name!r} is already taken by {owners[options.name]}")
            owners.setdefault(options.name, message.full_name)
            problems += [f"{file.name}: {message.full_name}{_joint(text)}" for text in complaints]
            if not complaints:
                message_class = message_factory.GetMessageClass(message)
                found[message.full_name] = record.dataset(message, message_class, options)
    return found


def _services(files: list[FileDescriptor], datasets: dict[str, Dataset], problems: list[str]) -> list[Service]:
    found: list[Service] = []
    for file in files:
        for service in file.services_by_name.values():
            served = binding.served_record(service)
            if served is None:
                continue
            if served not in datasets:
                problems += _unknown_record(file, service, served, problems)
                continue
            bound, complaints = binding.bind(service, datasets[served])
            problems += [f"{file.name}: {service.full_name}{_joint(text)}" for text in complaints]
            requests = {method.input.full_name: method.input for method in bound.methods if method.request_has_rules}
            problems += [f"{file.name}: {text}" for request in requests.values() for text in rule_problems(request)]
            found.append(bound)
    return found


def _unknown_record(file: FileDescriptor, service: ServiceDescriptor, served: str, problems: list[str]) -> list[str]:
    if any(f": {served}" in problem for problem in problems):
        return []  # the record itself is refused above; saying so twice hides the cause
    return [f"{file.name}: {service.full_name}: serves {served!r}, which is no message with the dataset option"]


def _joint(text: str) -> str:
    """`.field: reason` follows a message's name directly, a bare reason after a colon."""
    return text if text.startswith(".") else f": {text}"
