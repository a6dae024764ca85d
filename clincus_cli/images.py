"""`image` and `images`: the images that sessions start from."""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence

import clincus
from clincus_cli import TYPE_CHECKING, console, containers, sessions
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    from typing import Any

STANDARD_IMAGE = "clincus"
BUILD = "Build it with: clincus build"


def door(context: Context) -> clincus.Incus:
    """The door to the engine that --engine names. Raises ClincusError(404)."""
    return context.engine_door(context.options.engine)


def query_images(incus: clincus.Incus) -> list[dict[str, Any]]:
    """All images that have an alias, as Incus describes them, by their first alias."""
    images = [image for image in incus.query("/1.0/images?recursion=1") or () if image["aliases"]]
    return sorted(images, key=lambda image: min(alias_names(image)))


def alias_names(image: Mapping[str, Any]) -> list[str]:
    """The names of an image, sorted."""
    return sorted(str(alias["name"]) for alias in image["aliases"])


def find_image(incus: clincus.Incus, alias: str) -> dict[str, Any]:
    """The local image of an alias. Raises ClincusError (404)."""
    for image in query_images(incus):
        if alias in alias_names(image):
            return image
    raise clincus.ClincusError(f"image '{alias}' not found; `clincus image list --all` shows those that are there", 404)


def image_document(image: Mapping[str, Any]) -> dict[str, object]:
    """An image as `--format json` shows it in a list."""
    return {
        "aliases": alias_names(image),
        "created_at": image["created_at"],
        "fingerprint": image["fingerprint"],
        "size": image["size"],
    }


ENGINE = cli.Flag("--engine NAME", "the images of an engine of the config (default: of this host)", default="")
LIST_FLAGS = (
    cli.Flag("-a, --all", "every local image"),
    cli.Flag("--prefix TEXT", "only aliases that begin so", default=""),
    ENGINE,
    cli.format_flag("table", "json"),
)


@cli.Command("images", *LIST_FLAGS, shows=True)
@cli.Command("image list", *LIST_FLAGS, shows=True)
def run_image_list(context: Context) -> int:
    """List images

    Prints the state of the standard image. --all and --prefix list other images. JSON has every image with a
    name.

    $ clincus image list --prefix clincus- --format json  # The versions of the standard image.
    """
    options = context.options
    images = query_images(door(context))
    if options.prefix:
        images = [image for image in images if any(name.startswith(options.prefix) for name in alias_names(image))]
    remedy = f"Copy it there: clincus engine update {options.engine}" if options.engine else BUILD
    lines = [image_overview(images, remedy, show_all=options.all)]
    if options.prefix:
        table = image_table(images, options.prefix, "created_at", "CREATED")
        lines = [f"Images with prefix '{options.prefix}':", table]
        if not images:
            lines = [f"No images found with prefix '{options.prefix}'"]
    return context.show([image_document(image) for image in images], lines)


def image_table(images: Iterable[Mapping[str, Any]], prefix: str, moment: str, head: str) -> str:
    """Alias, size and a time of each image, a row for each alias that begins with the prefix."""
    rows = []
    for image in images:
        size = console.size_text(image["size"])
        when = console.local_time(image[moment])
        rows += [(name, size, when) for name in alias_names(image) if name.startswith(prefix)]
    return console.table(("ALIAS", "SIZE", head), rows, "  ")


def image_overview(images: Sequence[Mapping[str, Any]], remedy: str, *, show_all: bool) -> str:
    """The state of the standard image, with advice if it is missing; with `show_all` every alias."""
    state = f"  ✗ {STANDARD_IMAGE} (not built)\n    {remedy}"
    for image in images:
        if STANDARD_IMAGE in alias_names(image):
            size = console.size_text(image["size"])
            built = console.local_time(image["created_at"])
            state = f"  ✓ {STANDARD_IMAGE} ({size}, built {built})"
    rest = "All images: clincus images --all\nAnother one for a session: clincus shell --image ALIAS"
    if show_all:
        rest = "All Local Images:\n" + image_table(images, "", "uploaded_at", "UPLOAD DATE")
    return f"Available Images:\n\nClincus Images:\n{state}\n\n{rest}"


@cli.Command("image info ALIAS", ENGINE, cli.format_flag("text", "json"), shows=True)
def run_image_info(context: Context) -> int:
    """Show one image

    $ clincus image info clincus  # What is in it, and when it was built.
    """
    image = find_image(door(context), context.options.alias)
    properties = dict(sorted(image["properties"].items()))
    document = {
        **image_document(image),
        "architecture": image["architecture"],
        "description": properties.get("description", ""),
        "properties": properties,
        "uploaded_at": image["uploaded_at"],
    }
    rows = {
        "Image": context.options.alias,
        "Aliases": ", ".join(alias_names(image)),
        "Fingerprint": image["fingerprint"],
        "Description": document["description"] or "-",
        "Size": console.size_text(image["size"]),
        "Created": console.local_time(image["created_at"]),
        "Uploaded": console.local_time(image["uploaded_at"]),
        "Architecture": image["architecture"],
    }
    more = [(key, value) for key, value in properties.items() if value and key != "description"]
    lines = [console.facts([*rows.items(), *more])]
    return context.show(dict(sorted(document.items())), lines)


@cli.Command(
    "image publish CONTAINER ALIAS",
    cli.Flag("--description TEXT", "what it is for", default=""),
    cli.Flag("--force", "stop a running container meanwhile"),
    cli.ALWAYS_JSON,
    writes=True,
)
def run_image_publish(context: Context) -> int:
    """Make an image of a container

    The container stays. The image holds everything in the container, keys and conversations too. Clincus stores it
    where the container is: on this host, or on its engine.

    $ clincus image publish box my-tools  # Make an image that `--image my-tools` starts.
    """
    options = context.options
    name = context.options.container
    incus = context.door(name)
    alias = new_alias(incus, options.alias)
    instance = containers.find_instance(incus, name)
    if instance["status"] != "Stopped" and not options.force:
        advice = "stop it first, or use --force to stop it meanwhile"
        raise clincus.ClincusError(f'container "{name}" is running: {advice}', 409)
    containers.check_outlives_stop(instance, "published")
    properties = {"description": options.description} if options.description else {}
    with (
        containers.stopped(context, instance),
        console.progress(f"Publishing {name}"),
        containers.speaking_of(name),
    ):
        fingerprint = publish(incus, name, alias, properties)
    console.print_json({"alias": alias, "fingerprint": fingerprint})
    return 0


def new_alias(incus: clincus.Incus, alias: str) -> str:
    """An alias that no image has. Incus would find that out last, and keep the image without a name."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.+/-]{0,254}", alias):
        raise cli.UsageError(f"'{alias}' is no image's name: use letters, digits, dots and hyphens")
    if any(alias in alias_names(image) for image in query_images(incus)):
        raise clincus.ClincusError(f"image '{alias}' exists already: choose another name, or delete it", 409)
    return alias


def publish(incus: clincus.Incus, instance: str, alias: str, properties: Mapping[str, str]) -> str:
    """Make an image of a stopped instance and return its fingerprint. Raises IncusError."""
    import shutil

    # The properties of the instance's image (its recipe, its code user) hold for the new image as well.
    config = incus.query(incus.path(instance))["config"]
    inherited = {key[len("image.") :]: value for key, value in config.items() if key.startswith("image.")}
    body = {
        "source": {"type": "instance", "name": clincus.instance_name(instance)},
        "aliases": [{"name": alias, "description": properties.get("description", "")}],
        "properties": {**inherited, **properties},
        # The default, gzip, takes seven times as long. An engine may be without zstd.
        "compression_algorithm": "zstd" if shutil.which("zstd") and not incus.engine else "",
    }
    operation = incus.query("/1.0/images", "POST", body, wait=True, timeout=1800)
    return str(operation["metadata"]["fingerprint"])


@cli.Command("image delete ALIAS", ENGINE, cli.YES, cli.FORCE_F, cli.RESULT_JSON, writes=True)
def run_image_delete(context: Context) -> int:
    """Delete an image

    Deletes all names of the image, too. Containers that were made from it stay. At a terminal it asks.

    $ clincus image delete my-tools  # Delete it with all its names.
    """
    options = context.options
    try:
        image = find_image(door(context), options.alias)
        others = [name for name in alias_names(image) if name != options.alias]
        also = f" It is also called {', '.join(others)}." if others else ""
        if not console.confirm_named(f"Delete image '{options.alias}'?{also}", yes=cli.agreed(options)):
            return 1
        delete_image(door(context), image["fingerprint"])
    except clincus.ClincusError as error:
        if error.status == 503:
            raise
        words = f"failed to delete image '{options.alias}': {error.message}"
        raise clincus.ClincusError(words, error.status) from error
    return context.report(f"Image {options.alias} deleted", {"alias": options.alias, "result": "deleted"})


def delete_image(incus: clincus.Incus, fingerprint: str) -> None:
    """Delete an image with all its aliases. Raises IncusError."""
    incus.query(f"/1.0/images/{fingerprint}", "DELETE", wait=True, timeout=120)


@cli.Command("image exists ALIAS", ENGINE, cli.RESULT_JSON, shows=True)
def run_image_exists(context: Context) -> int:
    """Check if an image exists, and answer by the exit code

    $ clincus image exists clincus || clincus build  # Build it if need be.

    Exits: 0 yes; 1 no; 2 Incus could not be asked
    """
    alias = context.options.alias

    def is_there() -> bool:
        return any(alias in alias_names(image) for image in query_images(door(context)))

    return containers.answer(context, "exists", is_there)


# The plan of a cleanup for the versions of an image: aliases, newest first. `spared` are old ones whose image has
# another name as well.
Cleanup = namedtuple("Cleanup", "delete keep spared")


def plan_cleanup(images: Iterable[Mapping[str, Any]], prefix: str, keep: int) -> Cleanup:
    """Select the versions of an image to delete: aliases PREFIX…-YYYYMMDD-HHMMSS, all but the newest `keep`."""
    versions = {}  # alias -> all names of its image
    for image in images:
        names = set(alias_names(image))
        for name in names:
            if name.startswith(prefix) and re.search(r"(?:^|-)\d{8}-\d{6}$", name):
                versions[name] = names
    newest_first = sorted(versions, key=lambda name: name[-15:], reverse=True)
    kept = newest_first[:keep]
    old = newest_first[keep:]
    spared = [name for name in old if not versions[name] <= set(old)]
    return Cleanup([name for name in old if name not in spared], kept, spared)


def above_zero(text: str) -> int:
    """The number of versions that a cleanup keeps."""
    if not re.fullmatch(r"\d{1,6}", text) or int(text) == 0:
        raise ValueError("--keep must be > 0")
    return int(text)


@cli.Command(
    "image cleanup PREFIX",
    cli.Flag("--keep N", "how many of the newest stay (required)", check=above_zero),
    ENGINE,
    cli.YES,
    cli.FORCE_F,
    cli.Flag("--dry-run", "only say what would go"),
    cli.RESULT_JSON,
    writes=True,
)
def run_image_cleanup(context: Context) -> int:
    """Delete old versions of an image

    Versions are aliases that begin with PREFIX and end with a time, such as clincus-20270301-080000. An image that
    has another name as well stays. At a terminal it asks.

    $ clincus image cleanup clincus- --keep 2 --dry-run  # Show which versions of clincus would go.
    """
    options = context.options
    incus = door(context)
    if options.keep is None:
        raise cli.UsageError("--keep must be > 0: say how many versions stay")
    images = query_images(incus)
    plan = plan_cleanup(images, options.prefix, options.keep)
    if options.dry_run:
        report_cleanup("[Dry run] Would delete", plan.delete, plan)
        return context.show(plan._asdict(), [])
    question = f"Delete {len(plan.delete)} old version(s): {', '.join(plan.delete)}?"
    if plan.delete and not console.confirm_named(question, yes=cli.agreed(options)):
        return 1
    fingerprints = {}
    for image in images:
        fingerprints.update(dict.fromkeys(alias_names(image), str(image["fingerprint"])))

    def delete(name: str) -> None:
        try:
            delete_image(incus, fingerprints[name])
        except clincus.IncusError as error:
            if error.status != 404:  # it is gone with another of its names
                raise

    deleted = sessions.attempt_each(plan.delete, delete)
    console.say("Cleanup complete:")
    report_cleanup("Deleted", deleted, plan)
    context.show({**plan._asdict(), "delete": deleted}, [])
    return 0 if deleted == plan.delete else 1


def report_cleanup(verb: str, deleted: Sequence[str], plan: Cleanup) -> None:
    """Print what a cleanup did with each version."""
    console.say("\n  - ".join([f"{verb} {len(deleted)} old version(s):", *deleted]))
    console.say("\n  - ".join([f"Kept {len(plan.keep)} recent version(s):", *plan.keep]))
    for name in plan.spared:
        console.say(f"Spared {name}: its image has another name as well")
