"""Who and what is around."""

from wit_world.imports.directory import *
