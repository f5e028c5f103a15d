"""Kept for s3prl checkouts that ``maeast install-s3prl`` of version 0.1 changed: they import this name."""

from maeast_upstream.integrations.s3prl.repairs import install_repairs as install_repairs
