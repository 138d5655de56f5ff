"""Secrets that the operator has bound: the host puts them on requests, and nobody here sees one."""

from wit_world.imports.secrets import *
