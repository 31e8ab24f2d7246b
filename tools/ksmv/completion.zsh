#compdef ksmv
# SPDX-License-Identifier: GPL-2.0
#
# zsh completion of ksmv, by argcomplete (Debian: python3-argcomplete).

eval "$(register-python-argcomplete --shell zsh --external-argcomplete-script /usr/sbin/ksmv ksmv 2>/dev/null)"
# From now on zsh calls argcomplete's function instead of this one, if it is there.
[[ $_comps[ksmv] == _ksmv ]] || $_comps[ksmv] "$@"
