# SPDX-License-Identifier: GPL-2.0
"""The demo, in a guest that `run` boots, with the package ksmv beside it."""
