# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Completion of ksmv for bash; zsh takes it after bashcompinit.

# What may follow a command: its options, and what it is about.
_ksmv_words() {
	local knobs=/sys/kernel/mm/ksm_v
	case $1 in
	status) echo --json ;;
	top) echo --interval --count --json ;;
	report) echo --by --rows --json ;;
	who) echo --rows --json && _ksmv_pids ;;
	estimate)
		echo --cgroup --all --domain --scope --max-page-sharing --rows --json
		_ksmv_pids
		;;
	get) echo --json && find $knobs -maxdepth 1 -type f -perm -400 -printf '%f\n' 2>/dev/null ;;
	set) find $knobs -maxdepth 1 -type f -perm -200 -printf '%f\n' 2>/dev/null ;;
	esac
}

_ksmv_pids() { find /proc -maxdepth 1 -name '[0-9]*' -printf '%f\n' 2>/dev/null; }

# The values of an option, or of a knob that is a choice.
_ksmv_values() {
	case $1 in
	--by) echo process cgroup ;;
	--domain | domain) echo user process cgroup global ;;
	--scope | scope) echo all registered ;;
	governor) echo manual auto ;;
	max_interval) echo 1 2 4 8 ;;
	run) echo 0 1 2 ;;
	esac
}

_ksmv() {
	local word=$2 previous=$3 words
	if [ "$COMP_CWORD" = 1 ]; then
		words="status top report who estimate get set"
	elif [ "$previous" = --cgroup ]; then
		mapfile -t COMPREPLY < <(compgen -d -- "${word:-/sys/fs/cgroup/}")
		return
	elif [ "$COMP_CWORD" = 3 ] && [ "${COMP_WORDS[1]}" = set ]; then
		words=$(_ksmv_values "$previous")
	else
		words=$(_ksmv_values "$previous")
		words=${words:-$(_ksmv_words "${COMP_WORDS[1]}")}
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -F _ksmv ksmv
