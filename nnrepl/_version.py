"""The version, for the package and its metadata."""

VERSION = "0.2.0"
