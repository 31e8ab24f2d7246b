# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by the kinds of User-Mode Linux, besides the options of uml-common.config.
# Sourced by scripts/kernel/uml and uml-fast.

# shellcheck source=scripts/kernel/built.sh
. "$(dirname "${BASH_SOURCE[0]}")/built.sh"

# shellcheck disable=SC2034
MAKE_OPTIONS=(ARCH=um) TARGETS=(linux modules) IMAGE=linux
# shellcheck disable=SC2034
PATCHES=(mm-export.patch um-per-vma-lock.patch)
FRAGMENTS=(uml-common.config "${FRAGMENTS[@]}")
