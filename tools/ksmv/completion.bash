# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# bash completion of ksmv, by argcomplete (Debian: python3-argcomplete).

eval "$(register-python-argcomplete --no-defaults --external-argcomplete-script /usr/sbin/ksmv ksmv 2>/dev/null)"
