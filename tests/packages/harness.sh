# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Runs tests in a shell (bash or busybox): a test is a function test_NAME that
# fails if a command in it fails. Sourced; the last line is "run_tests NAME...".

# fail MESSAGE
fail() {
	echo "$*" >&2
	exit 1
}

# says TEXT CMD...: expects that the output of CMD contains TEXT, with any status.
says() {
	text=$1
	shift
	output=$("$@" 2>&1) || true
	case $output in
	*"$text"*) ;;
	*) fail "'$*' does not say '$text' but: $output" ;;
	esac
}

# refused CMD...: expects that CMD fails.
refused() {
	if output=$("$@" 2>&1); then fail "'$*' succeeded: $output"; fi
}

# same WHAT WANTED FOUND
same() { [ "$2" = "$3" ] || fail "$1: wanted '$2', found '$3'"; }

# run_tests NAME...: ends with a summary like that of Rust's test harness.
run_tests() {
	passed=0 failed=0 result=ok
	for name in "$@"; do
		output=$(set -e && "test_$name" 2>&1)
		# shellcheck disable=SC2181 # in a condition, set -e would be off
		if [ "$?" = 0 ]; then
			echo "test $name ... ok"
			passed=$((passed + 1))
		else
			echo "$output" | tail -n 40 | sed 's/^/  | /'
			echo "test $name ... FAILED"
			failed=$((failed + 1)) result=FAILED
		fi
	done
	echo "test result: $result. $passed passed; $failed failed; 0 ignored"
	[ "$failed" = 0 ]
}
