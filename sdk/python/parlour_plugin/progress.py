"""What a person sees while a handler still works."""

from wit_world.imports.progress import *
