# SPDX-License-Identifier: GPL-2.0
#
# fish completion of ksmv, by argcomplete (Debian: python3-argcomplete).

register-python-argcomplete --shell fish --external-argcomplete-script /usr/sbin/ksmv ksmv 2>/dev/null | source
