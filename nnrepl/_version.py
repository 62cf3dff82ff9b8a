"""The version, for the package and its metadata."""

VERSION = "0.1.0"
