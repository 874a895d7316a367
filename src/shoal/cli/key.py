"""`shoal key`: a new key for `shoal serve`, and what shoal.toml holds of it."""

import re

import click
import msgspec

from shoal.errors import UsageError


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Key and digest as JSON on standard output.")
def key(name: str, as_json: bool) -> None:
    """Make a key for NAME. It is shown once, and kept nowhere.

    The key goes to standard error and its table to standard output: `shoal key alice >> shoal.toml`.
    """
    from shoal.server.access.keys import digest, new_key
    from shoal.server.settings import KEY_NAME, KEY_NAME_RULE

    if not re.fullmatch(KEY_NAME, name):
        raise UsageError(f"{name!r}: {KEY_NAME_RULE}")
    made = new_key()
    if as_json:
        click.echo(msgspec.json.encode({"name": name, "key": made, "sha256": digest(made).hex()}))
        return
    click.echo(f"the key of {name}, shown this once:\n\n    {made}\n\nand for shoal.toml:\n", err=True)
    click.echo(f'[server.keys.{name}]\nsha256 = "{digest(made).hex()}"')
