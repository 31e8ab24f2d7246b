# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# bash completion of ksmv; zsh can use it after bashcompinit.

_ksmv_options() {
	case $1 in
	get | set | why) echo --json ;;
	status) echo --rows --json ;;
	top) echo --interval --count --rows --json ;;
	report) echo --by --why --rows --json ;;
	who) echo --rows --json ;;
	metrics) echo --output ;;
	estimate) echo --cgroup --all --domain --scope --max-page-sharing --sample --exact --rows --json ;;
	esac
}

# _ksmv_arguments COMMAND [ARGUMENT]...: prints the words that may follow; for a command without
# arguments, its options.
_ksmv_arguments() {
	case "$1 $#" in
	"status "* | "top "* | "report "* | "metrics "*) _ksmv_options "$1" ;;
	"who 1" | "why 1" | "estimate "*) _ksmv_pids ;;
	"get 1") _ksmv_knobs -400 ;;
	"set 1") _ksmv_knobs -200 ;;
	"set 2") _ksmv_values "$2" ;;
	esac
}

# Prints the values of an option, or of a knob that is a choice.
_ksmv_values() {
	case $1 in
	--by) echo process cgroup ;;
	--domain | domain) echo user process cgroup global ;;
	--scope | scope) echo all registered ;;
	content) echo all zero ;;
	governor) echo manual auto ;;
	max_interval) echo 1 2 4 8 ;;
	movable) echo 0 1 ;;
	run) echo 0 1 2 ;;
	undumpable) echo siblings leave ;;
	esac
}

# _ksmv_knobs MODE: prints the files that can be read, or written.
_ksmv_knobs() {
	find /sys/kernel/mm/ksm_v -maxdepth 1 -type f -perm "$1" -printf '%f\n' 2>/dev/null
}

_ksmv_pids() { find /proc -maxdepth 1 -name '[0-9]*' -printf '%f\n' 2>/dev/null; }

_ksmv() {
	local word=$2 command=${COMP_WORDS[1]} one option='' arguments=() words
	for one in "${COMP_WORDS[@]:2:COMP_CWORD-2}"; do
		case $option,$one in
		,--json | ,--all | ,--exact | ,--why) ;;
		,-*) option=$one ;;
		,*) arguments+=("$one") ;;
		# The option's value.
		*) option='' ;;
		esac
	done
	if [ "$COMP_CWORD" = 1 ]; then
		words="status top report metrics why who estimate get set"
	elif [ "$option" = --cgroup ]; then
		mapfile -t COMPREPLY < <(compgen -d -- "${word:-/sys/fs/cgroup/}")
		return
	elif [ "$option" = --output ]; then
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
	elif [ -n "$option" ]; then
		words=$(_ksmv_values "$option")
	elif [[ $word == -* ]]; then
		words=$(_ksmv_options "$command")
	else
		words=$(_ksmv_arguments "$command" "${arguments[@]}")
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -F _ksmv ksmv
